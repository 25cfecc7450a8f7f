import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parsePlan } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bundledModel } from '../src/cluster/bundled-model.ts';
import { scatteredPlan } from '../src/exact/plan-variants.ts';
import { CommandFailure } from '../src/failure.ts';
import { classFlags } from '../src/quality/class-flags.ts';
import { predictionWindows, readHeldOut } from '../src/quality/held-out.ts';

describe('prediction windows', () => {
  it('predict every token but the first exactly once, with a full window behind them where there is one', () => {
    fc.assert(
      fc.property(fc.nat(300), fc.integer({ min: 2, max: 40 }), (count, size) => {
        const ids = Array.from({ length: count }, (_, i) => i);
        const windows = predictionWindows(ids, size);
        expect(windows.flatMap((window) => window.slice(1))).toEqual(ids.slice(1));
        expect(windows.every((window) => window.length <= size && window.length > 1)).toBe(true);
        expect(windows.slice(0, -1).every((window) => window.length === size)).toBe(true);
      }),
    );
  });
});

describe('held-out text', () => {
  it('of the bundled model has five domains and its questions', () => {
    const { domains, questions } = readHeldOut(`${bundledModel()}/held-out`);
    expect(domains.map((d) => d.name)).toEqual(['code', 'novels', 'plays', 'scripture', 'speeches']);
    expect(questions).toHaveLength(120);
  });

  it('must be there', () => {
    expect(() => readHeldOut('/nowhere')).toThrow(/--held-out \/nowhere: there is no such folder/);
  });

  it.each([
    ['which-book.json', '[{', 'Expected'],
    ['which-book.json', '{}', 'it is no list of objects'],
    ['which-book.json', '[null]', 'it is no list of objects'],
    ['which-book.json', '[{"question": "Who?", "answer": 7}]', 'it is no list of objects'],
    ['novels.txt', Uint8Array.of(0x66, 0xff), 'it is not UTF-8 text'],
  ])('names %s where it cannot be read: %s', (name, content, why) => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const file = path.join(dir, name);
    writeFileSync(file, content);
    expect(() => readHeldOut(dir)).toThrow(`--held-out: ${file}: ${why}`);
    expect(() => readHeldOut(dir)).toThrow(CommandFailure);
    rmSync(dir, { recursive: true });
  });

  it('names a folder that stands for a text', () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    mkdirSync(path.join(dir, 'novels.txt'));
    expect(() => readHeldOut(dir)).toThrow(`--held-out: ${path.join(dir, 'novels.txt')}: EISDIR`);
    rmSync(dir, { recursive: true });
  });
});

describe('numeric classes', () => {
  it('are put together from parts, and unknown parts are named', () => {
    expect(classFlags('bf16+int8-experts')).toEqual(['--numeric', 'bf16', '--expert-dtype', 'int8']);
    expect(classFlags('f32+node-limit-2+int8-wire')).toEqual(['--numeric', 'f32', '--lossy', 'node-limit=2,wire=int8']);
    for (const part of ['fp4', 'constructor', '__proto__', '']) expect(() => classFlags(`bf16+${part}`)).toThrow(`${part} is not known`);
  });
});

describe('scattered plans', () => {
  it('are valid, differ by seed and have replicas', () => {
    const model = { type: 'qwen3_moe', moeLayers: [0, 1, 2], experts: 32 };
    const plan = scatteredPlan(model, 3, 1, 1);
    expect(parsePlan(JSON.stringify(plan), { model }).workers.map((w) => w.name)).toEqual(['n0w0', 'n1w0', 'n2w0']);
    expect(scatteredPlan(model, 3, 1, 2).replicas).not.toEqual(plan.replicas);
    expect(plan.replicas.flat().some((holders) => holders.length > 1)).toBe(true);
  });
});
