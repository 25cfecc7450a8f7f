import { getEventListeners } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { readJsonBody } from '../src/api/body.ts';
import { LeasedMemory } from '../src/api/leased-memory.ts';
import { TextThread } from '../src/tokenizing/text-thread.ts';
import { becomes } from './becomes.ts';
import { modelDir } from './model-dir.ts';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

// A request object lives as long as its response, and that may be a stream of many minutes.
describe('what a request was read from is let go while its answer is on its way', () => {
  it.each([1, 3])(
    'its bytes, in %i pieces',
    async (pieces) => {
      const request = Object.assign(new PassThrough(), { headers: { 'content-type': 'application/json' } });
      const kept: WeakRef<Buffer>[] = [];
      const write = () => {
        const text = `{"prompt":"${'x'.repeat(100_000)}"}`;
        for (let i = 0; i < pieces; i++) {
          const piece = Buffer.from(text.slice(Math.floor((i * text.length) / pieces), Math.floor(((i + 1) * text.length) / pieces)));
          kept.push(new WeakRef(piece));
          request.write(piece);
        }
        request.end();
      };
      const read = readJsonBody(
        { request: request as unknown as IncomingMessage, body: LeasedMemory.ofBodies(1_000_000).lease() },
        1_000_000,
      );
      write();
      expect(Object.keys(await read)).toEqual(['prompt']);
      await becomes(() => {
        collectGarbage();
        return kept.every((piece) => piece.deref() === undefined);
      });
      expect(request.listenerCount('data')).toBeGreaterThan(0);
    },
    10_000,
  );

  it('its text, once it is tokenised', async () => {
    const thread = new TextThread(modelDir);
    const { signal } = new AbortController();
    const text = 'a word '.repeat(1000);
    await thread.encode({
      ...{ prompts: [{ kind: 'text', text, addSpecialTokens: false, controls: false }], chars: text.length },
      ...{ tokensMax: 10_000, unwanted: signal },
    });
    expect(getEventListeners(signal, 'abort')).toEqual([]);
    await thread.close();
  });
});
