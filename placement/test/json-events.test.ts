import { expect, it } from 'vitest';
import { type JsonEvent, jsonEvents } from '../src/trace/json-events.ts';

it('gives the numbers of a large list by the chunk, not one wait for each', async () => {
  const numbers = Array.from({ length: 10_000 }, (_, i) => i % 256);
  async function* inPieces() {
    const text = Buffer.from(JSON.stringify({ ids: numbers }));
    for (let at = 0; at < text.length; at += 1000) yield text.subarray(at, at + 1000);
  }
  const seen: JsonEvent[] = [];
  let waits = 0;
  for await (const events of jsonEvents(inPieces(), 'a dump')) {
    waits++;
    seen.push(...events);
  }
  expect(seen.flatMap((event) => (event.kind === 'value' ? [event.value] : []))).toEqual(numbers);
  expect(seen.filter(({ kind }) => kind !== 'value').map(({ kind }) => kind)).toEqual(['open', 'key', 'open', 'close', 'close']);
  expect(waits).toBeLessThan(100);
});
