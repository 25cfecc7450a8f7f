import { expect, it } from 'vitest';
import { readSglangDump } from '../src/trace/sglang.ts';
import { bytesOf } from './slice.ts';

it('follows requests through the passes of an SGLang dump', async () => {
  const pass = (positions: number[], more: object = {}) => ({
    ...more,
    positions,
    topk_ids_of_layer: [positions.map((p) => [p % 4])],
  });
  const sequences = async (...records: object[]) => {
    const read = await readSglangDump(() => bytesOf(JSON.stringify({ records })), 'dump.json');
    if (read.kind !== 'routing') throw new Error('expected a routing trace');
    return read.trace.sequences.map((s) => s.tokens);
  };
  const decode = { forward_mode: 2, extend_seq_lens: null };
  // Every token of a decoding pass is another request's, said or not; also where positions happen to follow one another.
  expect(await sequences(pass([10, 20]), pass([11, 21]), pass([12, 22]))).toEqual([3, 3]);
  expect(await sequences(pass([10, 11], decode), pass([11, 12], decode), pass([12, 13], decode))).toEqual([3, 3]);
  // Prompts, one of which ends two passes later; a request that leaves gives its slot to the next.
  const prompts = pass([0, 1, 2, 0, 1, 2, 3], { forward_mode: 1, extend_seq_lens: [3, 4] });
  const rest = pass([4, 5], { forward_mode: 'EXTEND', extend_seq_lens: [2] });
  expect(await sequences(prompts, rest, pass([3, 6], decode), pass([7], decode))).toEqual([4, 8]);
  // A mixed pass: a chunk of a prompt, and answers behind it.
  expect(await sequences(prompts, pass([4, 5, 3], { forward_mode: 3, extend_seq_lens: [2] }))).toEqual([4, 6]);
  // Ranks know nothing of each other's requests.
  const [first, second] = [0, 1].map((rank) => (positions: number[]) => pass(positions, { rank, ...decode }));
  expect(await sequences(first([5]), second([5]), second([6]), first([6]), second([7]))).toEqual([2, 3]);
  // A rank without tokens says nothing.
  expect(await sequences(pass([0, 1]), { forward_mode: 4, positions: [], topk_ids_of_layer: [[], []] }, pass([2]))).toEqual([3]);
  // A request that has ended waits for nobody: the one that was seen last goes on, though it had another slot.
  const prompt = pass([0], { forward_mode: 1, extend_seq_lens: [1] });
  const answers = (...positions: number[]) => positions.map((p) => pass([p], decode));
  expect(await sequences(prompt, ...answers(1, 2), prompt, ...answers(1, 2, 3, 4, 5, 6, 7))).toEqual([3, 8]);
  // Nor is it found again after hundreds of passes.
  const others = Array.from({ length: 300 }, () => pass([9], decode));
  expect((await sequences(prompt, ...others, pass([1], decode))).filter((tokens) => tokens > 1)).toEqual([]);
  // Prompts of dumps that say no modes are not cut where others ended.
  expect(await sequences(pass([0, 1, 2]), pass([0, 1, 2, 3, 4]))).toEqual([3, 5]);
  const unplaced = (tokens: number) => ({ topk_ids_of_layer: [Array.from({ length: tokens }, (_, p) => [p % 4])] });
  expect(await sequences(unplaced(3), unplaced(5))).toEqual([3, 5]);
  // Text may name the type before the mode.
  expect(await sequences(pass([4, 5], { forward_mode: 'ForwardMode.DECODE' }))).toEqual([1, 1]);
  // The answers of a mixed pass are no prompts: a chunk that begins behind one does not go on from it.
  const mixed = pass([4, 5, 3], { forward_mode: 3, extend_seq_lens: [2] });
  expect(await sequences(prompts, mixed, pass([4, 5], { forward_mode: 1, extend_seq_lens: [2] }))).toEqual([4, 6, 2]);
  const marked = await readSglangDump(() => bytesOf(JSON.stringify({ records: [prompts, mixed] })), 'dump.json');
  if (marked.kind !== 'routing') throw new Error('expected a routing trace');
  expect(marked.trace.generated.reduce((a, b) => a + b, 0)).toBe(1);
  await expect(sequences(pass([0, 1], { forward_mode: 1, extend_seq_lens: [3] }))).rejects.toThrow(
    'record 1: extend_seq_lens[0] is 3, must be an integer from 1 to the 2 tokens that are left',
  );
});
