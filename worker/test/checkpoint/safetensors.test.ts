import { readFileSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { SwitchyardError } from '@switchyard/proto';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { headerLength, parseSafetensorsHeader } from '../../src/checkpoint/safetensors-header.ts';
import { readTensorIndex } from '../../src/checkpoint/tensor-index.ts';
import { ScratchFolder } from './checkpoint-files.ts';

const scratch = new ScratchFolder();
afterAll(() => scratch.remove());

const encode = (value: unknown) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));

/** Parses a header whose data is `dataBytes` long. */
function parse(header: unknown, dataBytes: number) {
  const json = encode(header);
  return parseSafetensorsHeader(json, 8 + json.length + dataBytes, 'a.safetensors');
}

const tensor = (dtype: string, shape: unknown, from: unknown, to: unknown) => ({ dtype, shape, data_offsets: [from, to] });

test('a header gives every tensor with its place in the file', () => {
  const header = {
    __metadata__: { format: 'pt' },
    b: tensor('BF16', [2, 3], 0, 12),
    a: tensor('F32', [], 12, 16),
    empty: tensor('I8', [0, 5], 16, 16),
  };
  const tensors = parse(header, 16);
  const dataStart = 8 + encode(header).length;
  expect([...tensors.keys()].sort()).toEqual(['a', 'b', 'empty']);
  expect(tensors.get('b')).toEqual({ name: 'b', dtype: 'BF16', shape: [2, 3], file: 'a.safetensors', offset: dataStart, bytes: 12 });
  expect(tensors.get('a')!.offset).toBe(dataStart + 12);
});

describe('a hostile header is refused, naming file, tensor and offset', () => {
  const cases: [string, unknown, number, RegExp][] = [
    ['not JSON', '{"a": ', 0, /^a\.safetensors: header at offset 8 is not JSON/],
    ['not an object', '[]', 0, /is not a JSON object/],
    ['invalid entry', { a: 3 }, 0, /tensor "a": its header entry is not an object/],
    ['unknown dtype', { a: tensor('F4', [2], 0, 1) }, 1, /tensor "a": dtype "F4" is not one of BOOL/],
    ['dtype of the prototype', { a: tensor('constructor', [2], 0, 1) }, 1, /dtype "constructor"/],
    ['negative size', { a: tensor('F32', [-1], 0, 4) }, 4, /shape \[-1\] is not a list of at most 8 sizes/],
    ['fractional size', { a: tensor('F32', [1.5], 0, 6) }, 6, /shape \[1\.5\] is not/],
    ['too many dimensions', { a: tensor('I8', Array(9).fill(1), 0, 1) }, 1, /at most 8 sizes/],
    ['overflowing shape', { a: tensor('F32', [2 ** 40, 2 ** 40], 0, 4) }, 4, /tensor "a": at offset \d+: shape .* data_offsets give 4/],
    ['wrong size', { a: tensor('F32', [2], 0, 4) }, 4, /shape \[2\] of F32 is 8 bytes, data_offsets give 4/],
    ['end before begin', { a: tensor('F32', [1], 4, 0) }, 4, /data_offsets \[4,0\] is not \[begin, end\]/],
    ['offsets of text', { a: tensor('F32', [1], '0', '4') }, 4, /data_offsets/],
    ['beyond the file', { a: tensor('F32', [4], 0, 16) }, 12, /tensor "a": at offset \d+: ends at byte \d+ of a file of \d+/],
    [
      'overlap',
      { a: tensor('F32', [2], 0, 8), b: tensor('F32', [2], 4, 12) },
      12,
      /tensor "b": at offset \d+: overlaps the tensor before it/,
    ],
    ['gap', { a: tensor('F32', [1], 0, 4), b: tensor('F32', [1], 8, 12) }, 12, /tensor "b": at offset \d+: leaves a gap/],
    ['bytes after the last tensor', { a: tensor('F32', [1], 0, 4) }, 5, /tensors end at offset \d+, the file has \d+ bytes/],
    [
      'a name given twice',
      '{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}}',
      2,
      /gap/,
    ],
    ['deep nesting', `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`, 0, /tensor "a"/],
  ];
  test.each(cases)('%s', (_, header, dataBytes, message) => {
    expect(() => parse(header, dataBytes)).toThrow(SwitchyardError);
    expect(() => parse(header, dataBytes)).toThrow(message);
  });

  test('a length that no file can have', () => {
    const field = (length: bigint) => {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, length, true);
      return bytes;
    };
    expect(() => headerLength(field(2n ** 63n), 1000, 'a')).toThrow(/claims 9223372036854775808 bytes, the limit is 104857600/);
    expect(() => headerLength(field(993n), 1000, 'a')).toThrow(/truncated: header at offset 8 needs 993 bytes, the file has 1000/);
    expect(() => headerLength(field(1n), 1000, 'a')).toThrow(/claims 1 bytes/);
    expect(() => headerLength(new Uint8Array(3), 3, 'a')).toThrow(/truncated at offset 0: 3 bytes/);
    expect(headerLength(field(992n), 1000, 'a')).toBe(992);
  });
});

test('whatever bytes a header has, it is parsed or refused', () => {
  const size = fc.oneof(fc.nat(40), fc.integer(), fc.double(), fc.constantFrom<unknown>(null, '4', 2 ** 53, []));
  const entry = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom('F32', 'BF16', 'U8', 'F8_E4M3', 'X'), fc.string()),
      shape: fc.array(size, { maxLength: 4 }),
      data_offsets: fc.array(size, { maxLength: 3 }),
    },
    { requiredKeys: [] },
  );
  const header = fc.oneof(
    fc.dictionary(fc.string(), fc.oneof({ weight: 4, arbitrary: entry }, { weight: 1, arbitrary: fc.jsonValue() })),
    fc.jsonValue(),
  );
  const bytes = fc.oneof(header.map(encode), fc.uint8Array({ maxLength: 200 }));
  fc.assert(
    fc.property(bytes, fc.nat(200), (json, dataBytes) => {
      try {
        const fileBytes = 8 + json.length + dataBytes;
        const tensors = [...parseSafetensorsHeader(json, fileBytes, 'a').values()];
        // What is accepted lies in the file, without overlap, and covers it.
        expect(tensors.reduce((sum, { bytes: size }) => sum + size, 0)).toBe(dataBytes);
        for (const { offset, bytes: size } of tensors) expect(offset + size).toBeLessThanOrEqual(fileBytes);
      } catch (error) {
        if (!(error instanceof SwitchyardError)) throw error;
        expect(error.code).toBe('bad_checkpoint');
      }
    }),
    { numRuns: 2000 },
  );
});

describe('a directory', () => {
  const change = (dir: string, file: string, edit: (index: { weight_map: Record<string, unknown> }) => void) => {
    const index = JSON.parse(readFileSync(path.join(dir, file), 'utf8'));
    edit(index);
    writeFileSync(path.join(dir, file), JSON.stringify(index));
  };
  const indexFile = 'model.safetensors.index.json';

  test('without weights, or with pickled ones, is refused', () => {
    const dir = scratch.copyOf('mixtral');
    unlinkSync(path.join(dir, 'model.safetensors'));
    expect(() => readTensorIndex(dir)).toThrow(/has neither model\.safetensors nor model\.safetensors\.index\.json$/);
    writeFileSync(path.join(dir, 'pytorch_model.bin'), '');
    expect(() => readTensorIndex(dir)).toThrow(/"pytorch_model\.bin" is a pickle, which is never read/);
  });

  test('with a truncated file is refused at any length', () => {
    const dir = scratch.copyOf('mixtral');
    const file = path.join(dir, 'model.safetensors');
    const whole = readFileSync(file).length;
    for (const length of [whole - 1, whole - 5000, 5000, 8, 7, 0]) {
      truncateSync(file, length);
      expect(() => readTensorIndex(dir), `${length} bytes`).toThrow(SwitchyardError);
      expect(() => readTensorIndex(dir)).toThrow(/model\.safetensors: .*(truncated|of a file of)/);
    }
  });

  test('with one file and an index is refused: readers differ in which they take', () => {
    const dir = scratch.copyOf('qwen3_moe_sharded');
    writeFileSync(path.join(dir, 'model.safetensors'), '');
    expect(() => readTensorIndex(dir)).toThrow(/has both model\.safetensors and model\.safetensors\.index\.json: remove the one/);
  });

  test('whose index leaves the directory is refused', () => {
    for (const shard of ['../model.safetensors', '/etc/passwd', 'a/b.safetensors', '.hidden.safetensors', 'model.bin', 3]) {
      const dir = scratch.copyOf('qwen3_moe_sharded');
      change(dir, indexFile, (index) => {
        index.weight_map['model.norm.weight'] = shard;
      });
      expect(() => readTensorIndex(dir), String(shard)).toThrow(
        /tensor "model\.norm\.weight": file .* is not the name of a \.safetensors file/,
      );
    }
  });

  test('whose index and shards disagree is refused', () => {
    const dir = scratch.copyOf('qwen3_moe_sharded');
    change(dir, indexFile, (index) => {
      index.weight_map['model.extra.weight'] = 'model-00001-of-00011.safetensors';
    });
    expect(() => readTensorIndex(dir)).toThrow(/model-00001-of-00011\.safetensors: tensor "model\.extra\.weight" is missing/);
    change(dir, indexFile, (index) => {
      delete index.weight_map['model.extra.weight'];
      delete index.weight_map['model.norm.weight'];
    });
    expect(() => readTensorIndex(dir)).toThrow(
      /tensor "model\.norm\.weight" at offset \d+ is not what model\.safetensors\.index\.json says/,
    );
    const other = scratch.copyOf('qwen3_moe_sharded');
    unlinkSync(path.join(other, 'model-00003-of-00011.safetensors'));
    expect(() => readTensorIndex(other)).toThrow(/model-00003-of-00011\.safetensors: cannot be opened \(ENOENT\)/);
  });
});
