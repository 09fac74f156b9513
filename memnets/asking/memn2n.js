"use strict";
/* A Memory Network's forward pass in plain JavaScript: for one story, what memnets/models/memn2n.py computes
   (arXiv:1503.08895). `page.py` writes the numbers; a test holds the two against each other.

   A sentence is a list of word ids from 1, a vector an array of numbers, a matrix an array of rows. */

/* Rows of a matrix from base64 of little-endian 32-bit floats. */
function unpack({ shape: [rows, width], data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const numbers = new Float32Array(bytes.buffer);
  return Array.from({ length: rows }, (_, row) => Array.from(numbers.subarray(row * width, (row + 1) * width)));
}

/* The network of a page: its settings, and its matrices unpacked. Ids and ages index rows; row 0 is zeros. */
function makeModel(data) {
  const optional = (packed) => (packed ? unpack(packed) : null);
  return {
    ...data,
    embeddings: data.embeddings.map(({ words, ages }) => ({ words: unpack(words), ages: optional(ages) })),
    question: optional(data.question),
    update: optional(data.update),
    answer: optional(data.answer),
  };
}

const dot = (left, right) => left.reduce((sum, value, i) => sum + value * right[i], 0);
const add = (left, right) => left.map((value, i) => value + right[i]);
const times = (matrix, vector) => matrix.map((row) => dot(row, vector));

function softmax(scores, numEmpty = 0) {
  const largest = Math.max(...scores, ...(numEmpty ? [0] : []));
  const powers = scores.map((score) => Math.exp(score - largest));
  const total = powers.reduce((sum, power) => sum + power, numEmpty * Math.exp(-largest));
  return powers.map((power) => power / total);
}

/* l_kj for component k of d and word j of J, both from 0: of section 4.1, of the authors' code, or of a bag of words. */
const POSITION_WEIGHTS = {
  none: () => 1,
  paper: (k, width, j, count) => 1 - (j + 1) / count - ((k + 1) / width) * (1 - (2 * (j + 1)) / count),
  centred: (k, width, j, _, most) => 1 + (4 * (k - (width - 1) / 2) * (j - most / 2)) / (width * (most + 1)),
};

/* Σ_j l_j · A x_j. */
function embed(model, table, sentence) {
  const width = table[0].length;
  let total = new Array(width).fill(0);
  sentence.forEach((word, index) => {
    const weight = (k) => POSITION_WEIGHTS[model.position_encoding](k, width, index, sentence.length, model.sentence_size);
    total = total.map((sum, k) => sum + weight(k) * table[word][k]);
  });
  return total;
}

/* m_i = Σ_j l_j · A x_ij + T_A(age), the newest sentence of age 1; ages beyond the oldest known share its vector. */
function makeSlots(model, { words, ages }, story) {
  return story.map((sentence, index) => {
    const slot = embed(model, words, sentence);
    return ages ? add(slot, ages[Math.min(story.length - index, ages.length - 1)]) : slot;
  });
}

/* Equation 1: the weights of a hop, without the softmax while a linear start lasts. */
function weigh(model, query, keys) {
  const scores = keys.map((key) => model.scale * dot(query, key));
  return model.linear ? scores : softmax(scores, model.attend_empty ? model.story_size - keys.length : 0);
}

/* Equation 2: o = Σ_i p_i c_i. */
function read(values, weights) {
  const weighed = values.map((value, i) => value.map((number) => weights[i] * number));
  return weighed.reduce(add);
}

/* Probabilities of all answers, and the weights of each hop over the sentences: `story` oldest first, not empty. */
function ask(model, story, question) {
  const slots = model.embeddings.map((embedding) => makeSlots(model, embedding, story));
  let query = embed(model, model.question || model.embeddings[0].words, question);
  const attention = [];
  for (let hop = 0; hop < model.num_hops; hop++) {
    const [keys, values] = model.adjacent ? [slots[hop], slots[hop + 1]] : slots;
    const weights = weigh(model, query, keys);
    query = add(model.update ? times(model.update, query) : query, read(values, weights));
    if (model.relu) query = query.map((unit) => Math.max(0, unit));
    attention.push(weights);
  }
  const table = model.answer || model.embeddings[model.embeddings.length - 1].words;
  return { probabilities: softmax(times(table, query)), attention };
}
