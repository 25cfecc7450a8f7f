import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { contiguousPlan, type Plan } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import type { LoadOptions } from '../../src/model/contract.ts';
import { describeModel } from '../../src/model/families.ts';
import { hostedBy } from '../../src/model/hosted-experts.ts';
import { inspectModel } from '../../src/model/inspect.ts';
import { loadModel } from '../../src/model/load.ts';
import { checkNodeLimit, nodeLimitOf } from '../../src/model/node-limit.ts';
import { LockstepCluster, wholeModel } from '../../src/verify/lockstep-cluster.ts';
import { SequenceRun } from '../../src/verify/sequence-run.ts';
import { expectSameBits, logitsOf, someTokens, tinyOptions, withModel } from './loading.ts';

const golden = (name: string) => path.join(path.dirname(fileURLToPath(import.meta.url)), '../../../test/golden', name);

/** Contiguous over one worker a node, with a second copy of every third expert on the next node. */
function planOf(dir: string, nodes: number): Plan {
  const { modelType: type, moeLayers, experts } = inspectModel(dir);
  const plan = contiguousPlan(
    { type, moeLayers, experts },
    Array.from({ length: nodes }, (_, n) => ({ name: `n${n}`, node: n })),
  );
  plan.replicas = plan.replicas.map((layer) =>
    layer.map(([home], e) => (e % 3 === 0 && nodes > 1 ? [home!, (home! + 1) % nodes].sort((a, b) => a - b) : [home!])),
  );
  return plan;
}

const choices = (options: LoadOptions, tokens: Int32Array) =>
  withModel(options, (model) => ({ topK: model.shape.topK, ...new SequenceRun(wholeModel(model), tokens.length).feed(tokens) }));

describe('node-limit', () => {
  const dir = golden('qwen3_moe');
  const tokens = someTokens(60, inspectModel(dir).vocab);

  test('keeps every token on so many nodes, and leaves alone what needs no more', async () => {
    const plan = planOf(dir, 4);
    const free = await choices(tinyOptions(dir), tokens);
    for (const nodes of [1, 2]) {
      const limited = await choices(tinyOptions(dir, { nodeLimit: nodeLimitOf(plan, nodes) }), tokens);
      const { topK } = limited;
      const distinct = (experts: Int32Array, layer: number, t: number) => {
        const holders = Array.from(experts.subarray(t * topK, (t + 1) * topK), (e) => plan.replicas[layer]![e]!);
        return Math.min(
          ...Array.from({ length: 16 }, (_, mask) => mask)
            .filter((mask) => holders.every((list) => list.some((w) => (mask >>> w) & 1)))
            .map((mask) => mask.toString(2).replaceAll('0', '').length),
        );
      };
      let changed = 0;
      limited.experts.forEach((experts, layer) => {
        for (let t = 0; t < tokens.length; t++) {
          expect(distinct(experts, layer, t)).toBeLessThanOrEqual(nodes);
          // The first MoE layer of both runs reads the same rows.
          const same = experts.subarray(t * topK, (t + 1) * topK).join() === free.experts[layer]!.subarray(t * topK, (t + 1) * topK).join();
          if (layer === 0 && distinct(free.experts[0]!, 0, t) <= nodes) expect(same).toBe(true);
          if (!same) changed++;
        }
      });
      if (nodes === 1) expect(changed).toBeGreaterThan(0);
      else expectSameBits(limited.logits, free.logits); // Two experts a token, so two nodes are enough.
    }
  });

  test('names the class, and is the same whole as split', async () => {
    const plan = planOf(dir, 3);
    const nodeLimit = nodeLimitOf(plan, 1);
    const whole = await withModel(tinyOptions(dir, { nodeLimit }), (model) => {
      expect(model.shape.numericClass.name).toBe('f32+node-limit-1');
      return logitsOf(wholeModel(model), tokens);
    });
    const workers = await Promise.all(plan.workers.map((_, w) => loadModel(tinyOptions(dir, { nodeLimit, hosted: hostedBy(plan, w) }))));
    try {
      expectSameBits(logitsOf(new LockstepCluster(workers, plan).runner(1), tokens, [7, 1]), whole);
    } finally {
      for (const worker of workers) worker.close();
    }
  });

  test('is refused where a token could not choose, and by routers with rules of their own', async () => {
    const spread = planOf(dir, 8);
    spread.replicas = spread.replicas.map((layer) => layer.map((_, e) => [e % 8]));
    await expect(loadModel(tinyOptions(dir, { nodeLimit: nodeLimitOf(spread, 1) }))).rejects.toMatchObject({
      code: 'bad_plan',
      message: expect.stringMatching(/node-limit=1 may leave a token of layer 0 only 1 experts to choose 2 from/),
    });
    for (const [name, reason] of [
      ['deepseek_v3', /groups of its own/],
      ['smile_moe', /groups of its own/],
      ['phimoe', /second choice by the first/],
    ] as const) {
      const nodeLimit = nodeLimitOf(planOf(golden(name), 2), 1);
      await expect(loadModel(tinyOptions(golden(name), { nodeLimit }))).rejects.toThrow(reason);
    }
    expect(() => nodeLimitOf(planOf(dir, 40), 1)).toThrow(/node-limit takes plans of 32 nodes/);
    const ofOther = nodeLimitOf(planOf(golden('olmoe'), 2), 1);
    for (const holders of [ofOther.holders.slice(1), ofOther.holders.map((layer) => layer.slice(1))])
      await expect(loadModel(tinyOptions(golden('olmoe'), { nodeLimit: { nodes: 1, holders } }))).rejects.toThrow(/is not of 3 layers/);
  });

  describe('over one layer', () => {
    const graph = describeModel(openCheckpoint(dir));
    /** What a check says that no number of experts satisfies: how many there are on the worst nodes. */
    const fewest = (masks: number[], nodes: number) => {
      const { length: experts } = masks;
      const check = (topK: number) =>
        checkNodeLimit({ nodes, holders: [Int32Array.from(masks)] }, { ...graph, moe: graph.moe.slice(0, 1), experts, topK });
      const said = expect.stringMatching(/only \d+ experts/);
      let found = 0;
      try {
        check(experts + 1);
      } catch (error) {
        expect(error).toMatchObject({ code: 'bad_plan', message: said });
        found = Number(/only (\d+) experts/.exec((error as Error).message)![1]);
      }
      check(found);
      return found;
    };

    test('counts the experts on the worst nodes', () => {
      const held = fc.array(fc.integer({ min: 1, max: 2 ** 6 - 1 }), { minLength: 1, maxLength: 10 });
      fc.assert(
        fc.property(held, fc.integer({ min: 1, max: 7 }), fc.constantFrom(0, 13, 26), (masks, nodes, shift) => {
          const present = [0, 1, 2, 3, 4, 5].filter((n) => masks.some((mask) => (mask >> n) & 1));
          let worst = masks.length;
          for (let chosen = 0; chosen < 2 ** 6; chosen++) {
            const taken = present.filter((n) => (chosen >> n) & 1).length;
            if (taken === Math.min(nodes, present.length)) worst = Math.min(worst, masks.filter((mask) => (mask & chosen) !== 0).length);
          }
          // Up to the highest node, whose bit is a sign.
          const shifted = masks.map((mask) => mask << shift);
          expect(fewest(shifted, nodes)).toBe(worst);
        }),
      );
    });

    test('promises no more than the nodes hold where there are too many choices to look at', () => {
      // Node n holds n + 1 experts; those of 16 nodes are 136 at least.
      const masks = Array.from({ length: 32 }, (_, n) => Array(n + 1).fill(1 << n)).flat();
      expect(fewest(masks, 16)).toBe(16);
      expect(fewest(masks, 3)).toBe(6);
      expect(fewest(masks, 32)).toBe(masks.length);
    });
  });
});

describe('wire', () => {
  const dir = golden('olmoe');

  test.each(['int8', 'fp8'] as const)('%s changes rows that travel, a little, and no others', async (wire) => {
    const numericClass = { activations: 'bf16', experts: 'stored', dense: 'stored', sum: 'exact', wire } as const;
    const exact = { ...numericClass, wire: null };
    const tokens = someTokens(50, inspectModel(dir).vocab);
    const plan = planOf(dir, 2);
    const alone = await withModel(tinyOptions(dir, { numericClass: exact }), (model) => logitsOf(wholeModel(model), tokens));
    const workers = await Promise.all(plan.workers.map((_, w) => loadModel(tinyOptions(dir, { numericClass, hosted: hostedBy(plan, w) }))));
    try {
      const { name, id } = workers[0]!.shape.numericClass;
      expect(name).toBe(`bf16+${wire}-wire`);
      // Experts compute as in bf16; frames tell the two apart by the row dtype beside the class.
      await withModel(tinyOptions(dir, { numericClass: exact }), (model) =>
        expect(model.shape.numericClass).toMatchObject({ id, wire: 'bf16' }),
      );
      const split = logitsOf(new LockstepCluster(workers, plan).runner(0), tokens);
      const off = Math.sqrt(split.reduce((sum, v, i) => sum + (v - alone[i]!) ** 2, 0) / alone.reduce((sum, v) => sum + v ** 2, 0));
      expect(off).toBeGreaterThan(1e-4);
      expect(off).toBeLessThan(0.1);
    } finally {
      for (const worker of workers) worker.close();
    }
    const whole = await withModel(tinyOptions(dir, { numericClass }), (model) => logitsOf(wholeModel(model), tokens));
    expectSameBits(whole, alone);
  });
});
