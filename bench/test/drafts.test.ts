import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { draftFlags, isOurs, systemOf } from '../peers/drafts.mjs';

it('tells a system to guess, or not to, by its name', () => {
  expect(draftFlags('switchyard')).toEqual(['--draft-max', 0]);
  expect(draftFlags('switchyard+ngram')).toEqual(['--draft-max', 16]);
  expect(draftFlags('switchyard+ngram8')).toEqual(['--draft-max', 8]);
  expect(draftFlags('llama.cpp')).toEqual([]);
  expect(draftFlags('llama.cpp+ngram')).toContain('ngram-simple');
  expect(JSON.parse(draftFlags('vllm+ngram')[1])).toMatchObject({ method: 'ngram', num_speculative_tokens: 16 });
  expect([systemOf('llama.cpp+ngram'), isOurs('switchyard+ngram8'), isOurs('vllm')]).toEqual(['llama.cpp', true, false]);
});

it('has nothing to tell a system that it does not know, and refuses to have it guess', () => {
  expect(draftFlags('other')).toEqual([]);
  expect(() => draftFlags('other+ngram')).toThrow('other+ngram: there is no way to have it guess');
});

it('an odd number of rounds is refused before anything is started: half of them are measured in each order', () => {
  const program = fileURLToPath(new URL('../drafts/run.mjs', import.meta.url));
  for (const rounds of ['3', '0', 'x']) {
    const { status, stderr } = spawnSync(process.execPath, [program, '--layouts', 'none', '--rounds', rounds], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([2, expect.stringContaining(`--rounds ${rounds}: it must be even`)]);
  }
});
