import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ConfigReader } from '../../src/checkpoint/config-reader.ts';
import { fillRopeTable, readRope } from '../../src/model/rope.ts';

const yarn = {
  type: 'yarn',
  factor: 40,
  original_max_position_embeddings: 4096,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 0.75,
};
const divisors = Array.from({ length: 48 }, (_, i) => 1 + i / 7);
const longrope = {
  type: 'longrope',
  short_factor: divisors,
  long_factor: divisors,
  short_mscale: 1.1,
  long_mscale: 1.2,
  original_max_position_embeddings: 4096,
};

// Made with Node 20. Another table is another model: workers on machines with different versions of Node must not have different ones.
const tables = [
  ['plain, Qwen3', 128, { rope_theta: 1e6 }, 'ffd616033f9e'],
  ['plain, Mixtral', 128, { rope_theta: 1e4 }, '48e4a7ae2885'],
  ['linear', 64, { rope_theta: 1e4, rope_scaling: { type: 'linear', factor: 3 } }, 'ab828c8acdd2'],
  ['yarn, DeepSeek', 64, { rope_theta: 1e4, rope_scaling: yarn }, 'b574e0e9721f'],
  ['longrope, Phi-3.5', 96, { rope_theta: 1e4, rope_scaling: longrope }, 'c345bfc3d8e3'],
  ['dynamic, Hunyuan', 128, { rope_theta: 1e4, rope_scaling: { type: 'dynamic', alpha: 1000, factor: 1 } }, '8e07c0c1c8a9'],
] as const;

describe('rope tables', () => {
  it.each(tables)('have the same bits in every Node: %s', (_, rotated, settings, hash) => {
    const alpha = 'rope_scaling' in settings && 'alpha' in settings.rope_scaling;
    const positions = 32_768;
    const rope = readRope(new ConfigReader('config.json', { max_position_embeddings: positions, ...settings }), rotated, false, { alpha });
    const table = new Float32Array(rope.variants.length * positions * rotated);
    fillRopeTable(rope, positions, table);
    expect(createHash('sha256').update(new Uint8Array(table.buffer)).digest('hex').slice(0, 12)).toBe(hash);
  });
});
