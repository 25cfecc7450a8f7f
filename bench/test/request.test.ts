import { expect, it } from 'vitest';
import { submitOf } from '../../worker/test/in-process-cluster.ts';
import { request } from '../engine/request.mjs';

const prompt = (...draw: number[]) => request(4096, 16, 1, draw).prompt;

it('the prompt of a draw is the same for whoever is measured, whatever was asked before', () => {
  expect(prompt(3, 1, 0)).toEqual(prompt(3, 1, 0));
  expect(request(4096, 16, 1, [3, 1, 0]).request).not.toBe(request(4096, 16, 1, [3, 1, 0]).request);
});

it('prompts of other draws are others, tokens of the vocabulary all of them', () => {
  const rounds = Array.from({ length: 40 }, (_, round) => round - 20);
  const prompts = rounds.flatMap((round) => [0, 1, 2, 3].flatMap((cell) => [0, 1, 2, 3].map((i) => prompt(round, cell, i))));
  expect(new Set(prompts.map(String)).size).toBe(prompts.length);
  expect(prompts.flat().every((token) => Number.isInteger(token) && token >= 0 && token < 4096)).toBe(true);
});

it('a request has every field that workers look for', () => {
  expect(Object.keys(request(4096, 16, 1, [0])).sort()).toEqual(Object.keys(submitOf([1])).sort());
});
