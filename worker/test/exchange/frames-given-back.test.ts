import { MemoryNetwork, type Plan, type Transport } from '@switchyard/proto';
import { expect, test, vi } from 'vitest';
import { toyModel, toyNative } from '../engine/toy-model.ts';
import { InProcessCluster, submitOf } from '../in-process-cluster.ts';

/** Frames that arrived and whose memory was not given back, by where they lie. */
const kept = vi.hoisted(() => new Map<ArrayBufferLike, Set<number>>());

vi.mock('@switchyard/proto', async (original) => {
  const proto = await original<typeof import('@switchyard/proto')>();
  const giveBackFrame = (frame: Uint8Array) => {
    kept.get(frame.buffer)?.delete(frame.byteOffset);
    proto.giveBackFrame(frame);
  };
  return { ...proto, giveBackFrame };
});

/** Sees every frame that arrives at either end of a link. */
function seeing(transport: Transport): Transport {
  const see = (link: Awaited<ReturnType<Transport['dial']>>) => {
    const onFrame = link.onFrame.bind(link);
    link.onFrame = (receive) =>
      onFrame((bytes) => {
        arrived++;
        const places = kept.get(bytes.buffer) ?? new Set();
        kept.set(bytes.buffer, places.add(bytes.byteOffset));
        receive(bytes);
      });
    return link;
  };
  return {
    scheme: transport.scheme,
    listen: (address, options, accept) => transport.listen(address, options, (link) => accept(see(link))),
    dial: async (address, options) => see(await transport.dial(address, options)),
  };
}
let arrived = 0;

test('whoever has computed a frame, or added its sums, gives its memory back', async () => {
  const shape = { experts: 8, topK: 3, moeLayers: 3, kvBlocks: 64, maxRows: 64, maxSequences: 8, maxLogitRows: 16, maxContext: 256 };
  const holders = Array.from({ length: shape.experts }, (_, e) => [e >> 1]);
  const plan: Plan = {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'toy', moeLayers: [1, 2, 3], experts: shape.experts },
    workers: [0, 0, 1, 1].map((node, w) => ({ name: `w${w}`, node })),
    replicas: Array.from({ length: shape.moeLayers }, () => holders),
    provenance: null,
  };
  const cluster = await InProcessCluster.start({
    native: toyNative,
    models: plan.workers.map((_, w) => toyModel(shape, new Array(shape.moeLayers).fill([2 * w, 2 * w + 1]))),
    plan,
    transport: seeing(new MemoryNetwork()),
    addressOf: (w) => `memory://w${w}`,
    maxBatchRows: shape.maxRows,
    maxSequences: shape.maxSequences,
    maxLogitRows: shape.maxLogitRows,
    prefixCache: false,
    draftMax: 0,
    rowDeadlineMs: 20_000,
  });
  const prompts = [5, 40, 90, 7].map((first) => Array.from({ length: 40 }, (_, i) => (first + 7 * i) % 97));
  // Homes on both nodes, so that frames come to gateways while they serve others.
  const answers = await Promise.all(prompts.map((prompt, i) => cluster.run(i, submitOf(prompt, { maxTokens: 20 }))));
  expect(answers.map(({ error }) => error)).toEqual([null, null, null, null]);
  expect(arrived).toBeGreaterThan(500);
  expect([...kept.values()].flatMap((places) => [...places])).toEqual([]);
  await cluster.close();
});
