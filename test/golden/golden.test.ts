import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Backend, Plan } from '@switchyard/proto';
import { formatVerifyReport, inspectModel, verifyCheckpoint } from '@switchyard/worker';
import { afterAll, describe, expect, test } from 'vitest';

const here = path.dirname(fileURLToPath(import.meta.url));
const folders = readdirSync(here, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name);
const scratch = mkdtempSync(path.join(tmpdir(), 'switchyard-golden-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const options = (dir: string, ...backends: Backend[]) => ({
  dir,
  nodes: 1,
  workersPerNode: 1,
  plan: null,
  devices: (backends.length > 0 ? backends : ['cpu' as const]).map((backend) => ({
    backend,
    isa: 'auto' as const,
    threads: 1,
    cpus: null,
  })),
  onProgress: () => {},
});

/** A pseudo-random plan with one to three replicas of every expert, from a seed. */
function randomPlan(seed: number, workers: number, model: { type: string; moeLayers: number[]; experts: number }): Plan {
  let state = seed;
  const below = (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const holders = () => [...new Set(Array.from({ length: 1 + below(3) }, () => below(workers)))].sort((a, b) => a - b);
  return {
    format: 'switchyard-plan',
    version: 1,
    model,
    workers: Array.from({ length: workers }, (_, w) => ({ name: `w${w}`, node: below(Math.ceil(workers / 2)) })),
    replicas: model.moeLayers.map(() => Array.from({ length: model.experts }, holders)),
    provenance: null,
  };
}

describe.each(folders)('%s', (folder) => {
  const dir = path.join(here, folder);

  test('gives the logits, experts and tokens of the reference, in prefill, in pieces and token by token', async () => {
    const report = await verifyCheckpoint(options(dir));
    expect(report.cases.length).toBeGreaterThan(0);
    for (const one of report.cases) for (const phase of one.phases) expect(phase.experts, 'this reference records experts').not.toBeNull();
    expect(report.status, formatVerifyReport(report)).toBe('pass');
  });

  test('gives the same bits over 2, 3 and 5 workers, whatever the plan', async () => {
    const { modelType: type, moeLayers, experts } = inspectModel(dir);
    const { cases } = await verifyCheckpoint(options(dir));
    for (const workers of [2, 3, 5])
      for (const seed of [1, 2]) {
        const plan = randomPlan(seed, workers, { type, moeLayers, experts });
        const report = await verifyCheckpoint({ ...options(dir), plan });
        expect(report.split.workers).toBe(workers);
        expect(report.split.cases).toHaveLength(cases.length * 3);
        expect(report.status, formatVerifyReport(report)).toBe('pass');
      }
  });
});

test.each(['mixtral', 'deepseek_v3_fp8', 'gpt_oss_mxfp4', 'phimoe', 'smile_moe_pairs'])('%s on the scalar oracle', async (folder) => {
  const report = await verifyCheckpoint({ ...options(path.join(here, folder), 'cpu-ref'), nodes: 2 });
  expect(report.status, formatVerifyReport(report)).toBe('pass');
});

/** Every weight format that checkpoints have, with and without biases: the whole model on the CPU, its experts over CPUs and GPUs. */
test.each(['mixtral', 'deepseek_v3_fp8', 'gpt_oss_mxfp4', 'qwen3_moe'])('%s over processors and emulated GPUs', async (folder) => {
  const report = await verifyCheckpoint({ ...options(path.join(here, folder), 'cpu', 'cuda-emulated'), nodes: 2, workersPerNode: 2 });
  expect(report.backends).toEqual(['cpu', 'cuda-emulated', 'cpu', 'cuda-emulated']);
  expect(report.status, formatVerifyReport(report)).toBe('pass');
});

/** Offset of a tensor's first byte. */
function tensorOffset(file: Uint8Array, name: string): number {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  return 8 + length + header[name].data_offsets[0];
}

describe('a checkpoint that falls short', () => {
  const broken = path.join(scratch, 'olmoe');
  cpSync(path.join(here, 'olmoe'), broken, { recursive: true });
  const expectedFile = path.join(broken, 'expected.safetensors');
  const original = Uint8Array.from(readFileSync(expectedFile));

  const withChange = async (name: string, change: (view: DataView, at: number) => void) => {
    const bytes = Uint8Array.from(original);
    change(new DataView(bytes.buffer), tensorOffset(bytes, name));
    writeFileSync(expectedFile, bytes);
    return verifyCheckpoint(options(broken));
  };

  test('by a logit, is reported with its position', async () => {
    const report = await withChange('case1.logits', (view, at) => {
      const place = at + (41 * 320 + 7) * 4;
      view.setFloat32(place, view.getFloat32(place, true) + 0.01, true);
    });
    expect(report.status).toBe('fail');
    expect(report.cases[0]!.ok).toBe(true);
    expect(report.cases[1]!.phases.map(({ ok, position, token }) => ({ ok, position, token }))).toEqual(
      Array(3).fill({ ok: false, position: 41, token: 7 }),
    );
    expect(formatVerifyReport(report)).toContain('FAIL');
  });

  test('by an expert, is reported with its layer and position', async () => {
    const report = await withChange('case0.experts', (view, at) => {
      const place = at + (1 * 7 + 3) * 2 * 4; // layer 1, position 3
      view.setInt32(place, (view.getInt32(place, true) + 1) % 8, true);
    });
    expect(report.status).toBe('fail');
    expect(report.cases[0]!.phases[2]!.experts).toMatchObject({ wrong: 1, first: { layer: 1, position: 3 } });
  });

  test('by a greedy token, is reported with its place', async () => {
    const report = await withChange('case0.generated', (view, at) =>
      view.setInt32(at + 5 * 4, 319 - view.getInt32(at + 5 * 4, true), true),
    );
    expect(report.status).toBe('fail');
    expect(report.cases[0]!.generated.firstDifference).toBe(5);
  });

  test('by a reference of another shape, is refused by tensor', async () => {
    writeFileSync(expectedFile, original);
    const config = JSON.parse(readFileSync(path.join(broken, 'config.json'), 'utf8'));
    writeFileSync(path.join(broken, 'config.json'), JSON.stringify({ ...config, num_experts_per_tok: 3 }));
    await expect(verifyCheckpoint(options(broken))).rejects.toMatchObject({ code: 'bad_checkpoint', param: 'case0.experts' });
  });
});
