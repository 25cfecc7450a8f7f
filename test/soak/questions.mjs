// Requests of all kinds, small ones and long ones; the same seed gives the same.
import { drawsFrom } from './draws.mjs';

const starts = [
  'It was a dark night, and',
  'The ship had left the harbour when',
  '“Who are you?” asked',
  'Chapter 7. In which',
  'Of all the animals',
];
const middles = ['the captain', 'a white horse', 'nobody at all', 'the old king', 'Alice', 'the whale'];
const vocabulary = 4096;

/**
 * @param wanted how many
 * @returns {path, body} of each; seeded where it is sampled, so that it has one answer
 */
export function questionsFrom(seed, wanted) {
  const draws = drawsFrom(seed);
  return Array.from({ length: wanted }, (_, i) => kinds[i % kinds.length](draws, i));
}

const sentence = (draws) => `${draws.pick(starts)} ${draws.pick(middles)}${draws.chance(0.5) ? ',' : ' said'}`;
const completion = (body) => ({ path: '/v1/completions', body });
const chat = (body) => ({ path: '/v1/chat/completions', body });

const kinds = [
  (draws) => completion({ prompt: sentence(draws), temperature: 0, max_tokens: draws.integer(8, 96), ignore_eos: true, logprobs: 3 }),
  (draws, i) =>
    completion({
      prompt: sentence(draws),
      temperature: 0.9,
      top_p: 0.9,
      seed: i,
      max_tokens: draws.integer(8, 96),
      ignore_eos: true,
      logprobs: 1,
    }),
  (draws, i) => completion({ prompt: sentence(draws), temperature: 1, n: 3, seed: i, max_tokens: draws.integer(4, 40), logprobs: 0 }),
  (draws, i) => completion({ prompt: sentence(draws), temperature: 0.8, min_p: 0.05, seed: i, stop: ['.', ' and'], max_tokens: 64 }),
  (draws, i) =>
    completion({
      ...{ prompt: sentence(draws), temperature: 0.8, seed: i, max_tokens: 48, ignore_eos: true, logprobs: 2 },
      ...{ repetition_penalty: 1.2, frequency_penalty: 0.4, logit_bias: { [draws.integer(5, vocabulary - 1)]: 5 } },
    }),
  (draws) => completion({ prompt: sentence(draws).repeat(draws.integer(2, 8)), temperature: 0, max_tokens: 4, echo: true, logprobs: 2 }),
  // Long ones: several chunks, and homes that move.
  (draws) =>
    completion({
      prompt: Array.from({ length: draws.integer(300, 800) }, () => draws.integer(5, vocabulary - 1)),
      ...{ temperature: 0, max_tokens: draws.integer(1, 24), ignore_eos: true, logprobs: 1 },
    }),
  // The same words again and again: guesses are right.
  (draws) => completion({ prompt: `${sentence(draws)} `.repeat(12), temperature: 0, max_tokens: 120, ignore_eos: true, logprobs: 1 }),
  (draws, i) =>
    chat({
      messages: [
        { role: 'system', content: 'You tell stories.' },
        { role: 'user', content: sentence(draws) },
      ],
      ...{ temperature: 0.7, seed: i, max_tokens: draws.integer(16, 96), logprobs: true, top_logprobs: 2, ignore_eos: true },
      ...(draws.chance(0.5) ? { prediction: { type: 'content', content: `${sentence(draws)} the sea, and the sea was calm.` } } : {}),
    }),
];
