import path from 'node:path';
import { expect, test } from 'vitest';
import { readExpectedCases } from '../../src/verify/expected-cases.ts';
import { answerQuestions, measurePerplexity } from '../../src/verify/quality.ts';
import { goldenDir } from '../checkpoint/checkpoint-files.ts';
import { tinyOptions, withModel } from './loading.ts';

const dir = path.join(goldenDir, 'mixtral');

test('perplexity is that of the reference logits', async () => {
  await withModel(tinyOptions(dir), (model) => {
    const { tokens, logits } = readExpectedCases(dir, model.shape)[1]!;
    let nats = 0;
    for (let row = 0; row + 1 < tokens.length; row++) {
      const scores = logits.subarray(row * 320, (row + 1) * 320);
      nats += Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0)) - scores[tokens[row + 1]!]!;
    }
    const found = measurePerplexity(model, tokens, 512, () => {});
    expect(found.tokens).toBe(59);
    expect(found.nats).toBeCloseTo(nats / 59, 5);
    expect(found.perplexity).toBeCloseTo(Math.exp(nats / 59), 2);
  });
});

test('every token but the first is predicted once, however narrow the window', async () => {
  await withModel(tinyOptions(dir), (model) => {
    const { tokens } = readExpectedCases(dir, model.shape)[1]!;
    const done: number[] = [];
    expect(measurePerplexity(model, tokens, 8, (n) => done.push(n)).tokens).toBe(59);
    expect(done).toEqual([7, 14, 21, 28, 35, 42, 49, 56, 59]);
  });
});

test('a window that predicts nothing, or a text of which nothing is to be predicted, is refused', async () => {
  await withModel(tinyOptions(dir), (model) => {
    for (const seen of [1, 0, -3, 2.5, Number.NaN])
      expect(() => measurePerplexity(model, [1, 2, 3], seen, () => {}), String(seen)).toThrow(
        `seen is ${seen}; it must be an integer from 2`,
      );
    expect(() => measurePerplexity(model, [1], 8, () => {})).toThrow('ids has 1 tokens; at least 2 are needed');
  });
});

test('answers are greedy and end before a stop token', async () => {
  await withModel(tinyOptions(dir), (model) => {
    const cases = readExpectedCases(dir, model.shape);
    const questions = cases.map(({ tokens, generated }) => ({ prompt: tokens, answer: generated.join(' ') }));
    const decode = (ids: number[]) => ids.join(' ');
    const all = answerQuestions(model, questions, { stop: new Set(), maxTokens: 16, decode }, () => {});
    expect(all.exact).toBe(2);
    const stop = new Set([cases[0]!.generated[4]!]);
    const first = cases[0]!.generated.indexOf([...stop][0]!);
    const cut = answerQuestions(model, questions.slice(0, 1), { stop, maxTokens: 16, decode }, () => {});
    expect(cut).toEqual({ exact: 0, answers: [[...cases[0]!.generated.slice(0, first)].join(' ')] });
  });
});
