"""The API and its server, and the terminal: what is asked and refused, with a socket and without."""

from __future__ import annotations

import http.client
import io
import json
import sys
import threading
from contextlib import contextmanager

import pytest
from rich.console import Console
from served import FACT, QUESTION, exported, opened
from tiny import script

from memnets.serving.answer import Refused
from memnets.serving.api import Api
from memnets.serving.folder import in_use, open_folder
from memnets.serving.server import is_loopback, make_server, serve
from memnets.serving.terminal import Terminal, converse, read_lines

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def reader(tmp_path):
    return opened(tmp_path)


@pytest.fixture
def api(reader):
    def call(name, **given):
        return Api(reader).call(f"/api/{name}", json.dumps(given).encode())

    return call


class TestApi:
    def test_the_walk(self, api):
        total = api("entries")["total"]
        assert api("write", id="ada/city", text=FACT) == {"notes": []}
        told = api("ask", question=QUESTION, k=2)
        assert told["answer"] == told["ranking"][0]["text"] == "beijing"
        assert len(told["passages"]) == 2
        assert told["passages"][0]["tokens"][-1].keys() == {"start", "end", "weight"}
        assert api("replace", id="ada/city", text="ada lovelace lives in rome.") == {"notes": []}
        assert api("ask", question=QUESTION)["answer"] == "rome"
        assert api("entries", search="lovelace", most=5) == {
            "entries": [{"id": "ada/city", "text": "ada lovelace lives in rome."}],
            "found": 1,
            "total": total + 1,
        }
        assert api("erase", id="ada/city") == {}
        assert api("entries", search="lovelace")["found"] == 0
        assert api("ask", question=api("about")["example"])["passages"]
        assert api("about")["limits"]["body"] == 1 << 20

    def test_documents_are_written_together_or_not_at_all(self, api):
        documents = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
        assert len(api("write", documents=documents)["notes"]) == 2
        total = api("entries")["total"]
        with pytest.raises(Refused, match="'a': in memory already"):
            api("write", documents=[{"id": "c", "text": "three"}, documents[0]])
        assert api("entries")["total"] == total

    @pytest.mark.parametrize(
        ("path", "body", "told", "status"),
        [
            ("/api/asks", b"{}", r"no call '/api/asks': there are /api/about", 404),
            ("/api/__init__", b"{}", "no call", 404),
            ("/api/ask", b'{"question": "\xff"}', "no JSON in UTF-8", 400),
            ("/api/ask", b"{", "no JSON", 400),
            ("/api/ask", b"[" * 100_000, "no JSON", 400),
            ("/api/ask", b"[]", "must be a JSON object", 400),
            ("/api/ask", b"{}", "question is missing: expected str", 400),
            ("/api/ask", b'{"question": 3}', "question: expected str, not int", 400),
            ("/api/ask", b'{"question": "x", "k": true}', "k: expected int, not bool", 400),
            ("/api/ask", b'{"question": "x", "k": 1e999}', "k: expected int, not float", 400),
            ("/api/ask", b'{"question": "\\ud800"}', "no Unicode text", 400),
            ("/api/write", b'{"documents": [1]}', "expected objects", 400),
            ("/api/write", b'{"documents": []}', "nothing to write", 400),
            ("/api/write", b'{"id": "x"}', "text is missing", 400),
            ("/api/entries", b" " * ((1 << 20) + 1), "1,048,577 bytes: at most 1,048,576", 413),
        ],
    )
    def test_what_is_refused(self, reader, path, body, told, status):
        with pytest.raises(Refused, match=told) as error:
            Api(reader).call(path, body)
        assert error.value.status == status


@contextmanager
def serving(reader, host="127.0.0.1"):
    """The port of a server in a thread."""
    with make_server(reader, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def fetch(port, method, path, body=None, headers=None, host="127.0.0.1"):
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    return reply.status, reply.headers, reply.read()


class TestServer:
    def test_the_walk_through_a_socket(self, reader):
        with serving(reader) as port:

            def call(name, **given):
                status, headers, content = fetch(port, "POST", f"/api/{name}", json.dumps(given), JSON)
                assert headers["Content-Type"] == "application/json"
                return status, json.loads(content)

            assert call("write", id="ada/city", text=FACT) == (200, {"notes": []})
            assert call("ask", question=QUESTION)[1]["answer"] == "beijing"
            assert call("erase", id="ada/city") == (200, {})
            status, told = call("erase", id="ada/city")
            assert (status, told.keys()) == (404, {"error"})

    def test_the_page_comes_from_here_alone(self, reader):
        with serving(reader) as port:
            for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
                status, headers, content = fetch(port, "GET", path)
                assert (status, headers.get_content_type()) == (200, kind)
                assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert not any(word in content for word in (b"http:", b"https:", b"innerHTML", b"@import", b"eval("))
            assert fetch(port, "GET", "/../server.py")[0] == fetch(port, "GET", "/server.py")[0] == 404

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Host": "evil.example:8000"}, 403),
            ({"Host": "localhost.evil.example"}, 403),
            ({"Host": "[::1"}, 403),
            ({"Host": ""}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://127.0.0.1:1"}, 403),
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Length": "-5"}, 411),
            ({"Content-Length": "9" * 5000}, 400),
            ({"Content-Length": "0" * 19 + "2"}, 200),
            ({"Transfer-Encoding": "chunked"}, 411),
            ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
            ({"Host": "[::1]:8000"}, 200),
            ({"Host": "192.168.1.5:8000"}, 200),
            ({"Host": "LOCALHOST"}, 200),
        ],
    )
    def test_other_pages_and_other_names_are_kept_out(self, reader, headers, status):
        with serving(reader) as port:
            found, _, content = fetch(port, "POST", "/api/about", b"{}", {**JSON, **headers})
            assert found == status
            assert ("error" in json.loads(content)) == (status != 200)
            assert "evil" not in headers.get("Host", "") or fetch(port, "GET", "/", headers=headers)[0] == 403

    def test_a_body_too_large_is_refused_and_the_server_goes_on(self, reader):
        with serving(reader) as port:
            status, _, content = fetch(port, "POST", "/api/write", b" " * (7 << 20), JSON)
            assert (status, "at most 1,048,576" in json.loads(content)["error"]) == (413, True)
            assert fetch(port, "POST", "/api/about", b"{}", JSON)[0] == 200

    def test_a_defect_is_told_and_the_server_goes_on(self, reader, monkeypatch, capsys):
        with serving(reader) as port:
            with monkeypatch.context() as patched:
                patched.setattr(reader, "ask", lambda *given: 1 / 0)
                status, _, content = fetch(port, "POST", "/api/ask", b'{"question": "x"}', JSON)
            assert (status, json.loads(content)["error"][:41]) == (500, "the server failed (ZeroDivisionError): se")
            assert fetch(port, "POST", "/api/ask", b'{"question": "x"}', JSON)[0] == 200
        assert "ZeroDivisionError" in capsys.readouterr().err

    @pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
    def test_a_host_beyond_this_machine_is_warned_of(self, reader, monkeypatch, capsys, host, loopback):
        def interrupted(server):
            raise KeyboardInterrupt

        monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
        serve(reader, host, 0)
        out, err = capsys.readouterr()
        assert f"open http://{host}:" in out
        assert ("there is no password" in err) == (not loopback) == (not is_loopback(host))


def told_by(reader, *lines):
    console = Console(file=io.StringIO(), width=140)
    read_lines(Terminal(reader, console), lines, "typed")
    return console.file.getvalue()


class TestTerminal:
    def test_the_walk(self, reader, tmp_path):
        (tmp_path / "more.txt").write_text("one is a cat\n\ntwo is a dog")
        shown = told_by(
            reader,
            f"/write ada/city: {FACT}",
            QUESTION,
            "/replace ada/city: ada lovelace lives in rome.",
            QUESTION,
            "/list lovelace",
            "/erase ada/city",
            "/list lovelace",
            f"/load {tmp_path / 'more.txt'}",
            "/list more.txt",
            "/k 1",
            "",
            "/help",
            "who is two?",
            "/quit",
            "/nothing",
        )
        assert shown.index("beijing") < shown.index("rome") < shown.index("1 entry") < shown.index("0 entries")
        assert "more.txt:2  two is a dog" in shown
        assert "/erase ID" in shown
        assert "two is a dog" in shown.splitlines()[-1]

    def test_a_text_commands_no_terminal(self, reader):
        reader.write("ada/city", f"\x1b]0;title\x07{FACT}\x1b[2J")
        shown = told_by(reader, "/list lovelace", QUESTION)
        assert FACT.rstrip(".") in shown
        assert not {"\x1b", "\x07"} & set(shown)

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("/forget x", "typed:2: /forget is no command: there are /write"),
            ("/write x", "expected an id, a colon, a blank and a text"),
            ("/erase nobody", "no entry 'nobody'"),
            ("/k 0", "expected a number from 1 to 50"),
            ("/load nowhere.txt", "can't be read"),
            ("/load TEXT", r"'facts.txt:1': in memory already"),
        ],
    )
    def test_what_cannot_be_done(self, reader, tmp_path, line, told):
        (tmp_path / "facts.txt").write_text(FACT)
        reader.write("facts.txt:1", FACT)
        line = line.replace("TEXT", str(tmp_path / "facts.txt"))
        with pytest.raises(Refused, match=told):
            told_by(reader, "", line)

    def test_a_person_who_errs_goes_on(self, reader):
        console = Console(file=io.StringIO(), width=140)
        lines = iter(["/erase nobody", QUESTION])
        console.input = lambda prompt: next(lines, None) or (_ for _ in ()).throw(EOFError)
        converse(Terminal(reader, console))
        shown = console.file.getvalue()
        assert shown.index("no entry 'nobody'") < shown.index("relevance")


class TestScript:
    def test_asks_and_edits_from_standard_input(self, tmp_path, monkeypatch, capsys):
        folder = exported(tmp_path)
        (tmp_path / "facts.txt").write_text(FACT)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n/erase facts.txt:1\n/nothing\n"))
        assert script("ask").main([f"folder={folder}", "--load", str(tmp_path / "facts.txt")]) == 1
        out, err = capsys.readouterr()
        assert out.startswith("beijing\n")
        assert "standard input:3: /nothing is no command" in err
        assert open_folder(folder).entries("lovelace")[1] == 0

    def test_what_is_at_fault_is_said(self, tmp_path, capsys):
        folder = exported(tmp_path)
        ask = script("ask").main
        assert ask([f"folder={tmp_path / 'none'}"]) == 2
        assert ask([f"folder={folder}", "task.encoder.seed=1"]) == 2
        assert ask([f"folder={folder}", "--load", str(tmp_path / "none.txt")]) == 2
        with in_use(folder):
            assert ask([f"folder={folder}"]) == 2
        (folder / "model.safetensors").unlink()
        assert ask([f"folder={folder}"]) == 2
        err = capsys.readouterr().err.splitlines()
        told = ["no folder", "another encoder", "can't be read", "is in use", "model.safetensors is missing"]
        assert all(words in line for words, line in zip(told, err, strict=True))

    def test_arguments(self, capsys):
        for words in (["folder="], ["folder=a", "folder=b"], ["folder=a", "--port", "70000"]):
            with pytest.raises(SystemExit):
                script("ask").main(words)
        assert "expected from 0" in capsys.readouterr().err
