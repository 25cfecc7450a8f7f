// Asks a server the same several times: with no prediction, then with one, made of the first answers. Prints seconds and tokens of each way as JSON.
//   node rewriting-client.mjs URL FILE    FILE: {"texts", "streams", "temperature", "maxTokens", "seed", "ways": ["none", "edited", …]}
import { readFileSync } from 'node:fs';

const [url, file] = process.argv.slice(2);
const { texts, streams, temperature, maxTokens, seed, ways } = JSON.parse(readFileSync(file, 'utf8'));

async function ask(text, own, prediction) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      messages: [{ role: 'user', content: text }],
      ...{ temperature, max_tokens: maxTokens, ignore_eos: true, seed: seed + own },
      ...(prediction === null ? {} : { prediction: { type: 'content', content: prediction } }),
    }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response.json();
}

/** The text with every tenth word another one: what somebody has who wants a draft revised. */
function edited(text) {
  let word = 0;
  return text.replace(/\S+/g, (found) => (++word % 10 === 0 ? 'something' : found));
}

/** All texts, `streams` at a time. */
async function askAll(predictions) {
  const answers = [];
  let next = 0;
  const startMs = performance.now();
  await Promise.all(
    Array.from({ length: streams }, async () => {
      while (next < texts.length) {
        const i = next++;
        answers[i] = await ask(texts[i], i, predictions[i]);
      }
    }),
  );
  return { seconds: (performance.now() - startMs) / 1000, answers };
}

// Not measured: prompts are in the prefix cache for all that follow, and what is said is known.
const first = await askAll(texts.map(() => null));
const said = first.answers.map(({ choices }) => choices[0].message.content);
const predictionsOf = {
  none: () => null,
  same: (text) => text,
  edited,
  wrong: (_, i) => said[(i + 1) % said.length],
};
const results = {};
for (const way of ways) {
  const { seconds, answers } = await askAll(said.map(predictionsOf[way]));
  for (const [i, { choices }] of answers.entries())
    if (choices[0].message.content !== said[i]) throw new Error(`${way}: answer ${i} is not what it was`);
  const total = (of) => answers.reduce((sum, { usage }) => sum + of(usage), 0);
  results[way] = {
    seconds,
    tokens: total(({ completion_tokens: n }) => n),
    accepted: total(({ completion_tokens_details: details }) => details?.accepted_prediction_tokens ?? 0),
  };
}
process.stdout.write(JSON.stringify(results));
