import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { weightsHash } from '../../src/process/weights-hash.ts';

const golden = fileURLToPath(new URL('../../../test/golden', import.meta.url));
const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-hash-'));
afterAll(() => rmSync(folder, { recursive: true }));

function copyOf(model: string, change: (dir: string) => void): string {
  const dir = mkdtempSync(path.join(folder, 'm-'));
  cpSync(path.join(golden, model), dir, { recursive: true });
  change(dir);
  return dir;
}

const config = (dir: string) => path.join(dir, 'config.json');

describe('the hash of a checkpoint', () => {
  test('is the same wherever it lies, however its configuration is written, and whatever lies beside it', async () => {
    const copy = copyOf('qwen3_moe', (dir) => {
      writeFileSync(config(dir), JSON.stringify(JSON.parse(readFileSync(config(dir), 'utf8')), null, 7));
      cpSync(path.join(dir, 'model.safetensors'), path.join(dir, 'consolidated.safetensors'));
    });
    expect(await weightsHash(copy)).toBe(await weightsHash(path.join(golden, 'qwen3_moe')));
  });

  const shards = readdirSync(path.join(golden, 'qwen3_moe_sharded')).filter((name) => /^model-.*\.safetensors$/.test(name));
  test('covers every shard of an index', () => {
    expect(shards.length).toBeGreaterThan(1);
  });
  test.each(shards)('covers the shard %s of an index', async (shard) => {
    const copy = copyOf('qwen3_moe_sharded', (dir) => rmSync(path.join(dir, shard)));
    await expect(weightsHash(copy)).rejects.toThrow(shard);
  });

  test.each([
    ['a setting', (dir: string) => writeFileSync(config(dir), readFileSync(config(dir), 'utf8').replace(/"rope_theta": ?\d/, '$&1'))],
    [
      'weights that were trained on',
      (dir: string) => {
        const file = path.join(dir, 'model.safetensors');
        const bytes = readFileSync(file);
        const data = 8 + Number(bytes.readBigUInt64LE());
        for (let i = data; i < bytes.length; i += 2) bytes[i] ^= 1;
        writeFileSync(file, bytes);
      },
    ],
  ])('is another with another value of %s', async (_, change) => {
    const copy = copyOf('qwen3_moe', change);
    expect(await weightsHash(copy)).not.toBe(await weightsHash(path.join(golden, 'qwen3_moe')));
  });
});
