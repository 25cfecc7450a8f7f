import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, describe, expect, it, vi } from 'vitest';
import {
  chooseHomes,
  evenCluster,
  expertLoads,
  holdOut,
  NO_EXPERT,
  openTrace,
  type RoutingTrace,
  TraceBuilder,
  writeSwitchyardTrace,
} from '../src/index.ts';
import { readIdDump } from '../src/trace/id-dump.ts';
import { readNpyTrace } from '../src/trace/npy.ts';
import { readSglangDump } from '../src/trace/sglang.ts';
import { readSwitchyardTrace } from '../src/trace/switchyard-format.ts';
import { readVllmJsonl } from '../src/trace/vllm-jsonl.ts';
import { bytesOf, gptOssSlice } from './slice.ts';

function tinyTrace(experts: number, sequences: number[][]): RoutingTrace {
  const builder = new TraceBuilder({ model: 'tiny', moeLayers: [1, 3], experts, topK: 2 }, 'tiny');
  sequences.forEach((seeds, s) => {
    seeds.forEach((seed, position) => {
      const pick = (n: number) => (seed * 7 + n * 3) % experts;
      builder.add(s, position, position % 2 === 1, [pick(0), (pick(0) + 1) % experts, pick(1), (pick(1) + 1) % experts], 0, () => 'here');
    });
  });
  return builder.build();
}

async function rewritten(trace: RoutingTrace, chunkBytes: number): Promise<RoutingTrace> {
  const { chunks, sequences } = writeSwitchyardTrace(trace, '2026-01-01T00:00:00Z');
  const all = Buffer.concat([...chunks]);
  const pieces: Uint8Array[] = [];
  for (let i = 0; i < all.length; i += chunkBytes) pieces.push(all.subarray(i, i + chunkBytes));
  return readSwitchyardTrace(bytesOf(...pieces), bytesOf(sequences), 'memory');
}

/** What this process has open. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      return []; // closed meanwhile: the directory itself, for one
    }
  });
}

describe('files that cannot be what they say', () => {
  const dir = mkdtempSync(join(tmpdir(), 'traces-'));
  afterAll(() => rmSync(dir, { recursive: true }));
  const file = (name: string, content: string | Uint8Array) => {
    const path = join(dir, name);
    writeFileSync(path, content);
    return path;
  };

  it('are named when they are missing, cut short or no files', async () => {
    const whole = readFileSync(new URL('./fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url));
    const cut = file('cut.trace.gz', whole.subarray(0, 1000));
    await expect(openTrace(cut)).rejects.toThrow(`${cut}: file: cannot be read: unexpected end of file`);
    await expect(openTrace(join(dir, 'none'))).rejects.toThrow(`${join(dir, 'none')}: file: cannot be read: ENOENT`);
    await expect(openTrace(dir)).rejects.toThrow(`${dir}: file: cannot be read: EISDIR`);
  });

  it.each([
    ['null', 'line 1: not an object'],
    ['{"req_id":1,"token_idx":0,"layer":1000000,"topk_ids":[1]}', 'line 1: layer is 1000000, must be an integer from 0 to 65535'],
    ['{"req_id":1,"token_idx":0,"layer":0,"topk_ids":[]}', 'line 1: topk_ids is []'],
    [
      // As many lines as layers, but one layer is missing.
      [0, 0, 1].map((layer) => `{"req_id":1,"token_idx":${layer},"layer":${layer},"topk_ids":[1]}`).join('\n'),
      'line 2: layer 0 of token 0 of request 1 was there before',
    ],
    [
      // The line that is bad, not the last one of its token.
      '{"req_id":1,"token_idx":0,"layer":0,"topk_ids":[1,1]}\n{"req_id":1,"token_idx":0,"layer":1,"topk_ids":[1,0]}',
      'line 1: topk_ids is [1,1], an expert appears twice',
    ],
  ])('as JSONL are refused by line: %#', async (content, message) => {
    await expect(openTrace(file('bad.jsonl', content))).rejects.toThrow(message);
  });

  it.each([
    [{ moeLayers: [1, 1] }, 'header: moeLayers[1] is 1, must be an integer above 1, at most 65535'],
    [{ moeLayers: ['a'] }, 'moeLayers[0] is "a", must be an integer above -1'],
    [{ moeLayers: [1e9] }, 'moeLayers[0] is 1000000000'],
    [{ model: 5 }, 'model is 5, must be text'],
    [{ model: '' }, 'model is "", must be text of 1 to 256 characters'],
    [{ modelType: 'm'.repeat(257) }, 'must be text of 1 to 256 characters'],
  ])('by a header like %o are refused', async (change, message) => {
    const header = { format: 'switchyard-trace', version: 1, model: 'm', moeLayers: [0], experts: 4, topK: 1, ...change };
    await expect(openTrace(file('odd.trace', `${JSON.stringify(header)}\n`))).rejects.toThrow(message);
  });

  it('by lines that are JSON but no objects are refused, by the name of the file beside', async () => {
    await expect(readSwitchyardTrace(bytesOf('null\n'), null, 'x')).rejects.toThrow('x: line 1: format is absent version absent');
    const { chunks } = writeSwitchyardTrace(tinyTrace(4, [[1, 2]]), 'now');
    const trace = file('beside.trace.gz', gzipSync(Buffer.concat([...chunks])));
    const beside = file('beside.trace.sequences.jsonl', 'null\n');
    await expect(openTrace(trace)).rejects.toThrow(`${beside}: line 1: sequence is not a number`);
  });

  it('as NumPy arrays are refused by shape, before memory is taken for it, and by ids that mean no choice elsewhere', async () => {
    const array = (shape: string, ids: number[], experts: number | null = null) => {
      const header = `{'descr': '<u2', 'fortran_order': False, 'shape': (${shape}), }`.padEnd(117, ' ');
      const start = Buffer.concat([Buffer.from([0x93]), Buffer.from('NUMPY'), Buffer.from([1, 0, 118, 0]), Buffer.from(`${header}\n`)]);
      return readNpyTrace(() => bytesOf(start, Buffer.from(Uint16Array.from(ids).buffer)), 'x.npy', { experts });
    };
    await expect(array('1, 1000000000000000', [])).rejects.toThrow('shape (1, 1000000000000000), must have 1..1024 layers and top-1..32');
    await expect(array('1, 0', [])).rejects.toThrow('shape (1, 0), must have 1..1024 layers');
    await expect(array('1, 2', [1, 65535], 4)).rejects.toThrow('row 0: expert id is 65535, must be in 0..65534');
    await expect(array('1, 2', [1, 2, 3], 4)).rejects.toThrow('row 1: the file goes on after the 1 rows of its header');
  });

  it.each([
    ['[[1, "5"]]', 'layer 0, expert 1: load is "5", must be a number in 0..9007199254740991'],
    ['[[1, 2], [3, null]]', 'layer 1, expert 1: load is null'],
    ['[[[1], 2]]', 'layer 0, expert 0: load is [1]'],
    ['[[1e308, 1e308]]', 'layer 0, expert 0: load is 1e+308'],
    [JSON.stringify(Array.from({ length: 1025 }, () => [1])), 'layers is 1025, at most 1024'],
  ])('as loads are refused by place: %#', async (content, message) => {
    await expect(openTrace(file('loads.json', content))).rejects.toThrow(message);
  });

  it.each([
    ['{"topk_ids_of_layer": [[0, 1]]}', 'topk_ids_of_layer has 2 dimensions, expected (layers, tokens, topK)'],
    ['[{"topk_ids_of_layer": [[[0]]]}, {"topk_ids_of_layer": [[[0, 1]]]}]', 'is (1, 1, 2) after records of 1 layers and top-1'],
    ['{"topk_ids_of_layer": [[[0.5]]]}', 'topk_ids_of_layer holds 0.5, must hold integers below 65535'],
    ['{"topk_ids_of_layer": [[[65536]]]}', 'topk_ids_of_layer holds 65536, must hold integers below 65535'],
    ['{"topk_ids_of_layer": [[[0], [1]]], "positions": [0]}', 'positions holds 1 numbers, must be as many as the 2 tokens'],
    ['{"topk_ids_of_layer": [[[0], [1]]], "positions": [0, -1]}', 'position is -1, must be an integer from 0 to 4294967295'],
    ['{"logical_count": [[[1, 2], [3, 4]], 5, 6, 7, 8]}', 'logical_count is ragged: 8 numbers in a list of (5, 2, 2)'],
    // What is left of a list of which something is lost.
    ['{"logical_count": [[1, , 2]]}', 'byte 23: unexpected ,'],
    ['{"logical_count": [[1 2]]}', 'byte 22: unexpected 2'],
    ['{"logical_count": [[1, 2],]}', 'byte 26: unexpected ]'],
    ['{"logical_count" [[1, 2]]}', 'byte 17: unexpected ['],
    ['{"steps": 3 "logical_count": [[1, 2]]}', 'byte 12: unexpected "'],
    ['{"logical_count": [[1, 2]], }', 'byte 28: unexpected }'],
    ['{"logical_count": [[1: 2]]}', 'byte 21: unexpected :'],
  ])('as SGLang dumps are refused by place: %#', async (content, message) => {
    await expect(openTrace(file('dump.json', content))).rejects.toThrow(message);
  });

  it('as JSONL are refused where a position is beyond what is kept', async () => {
    const content = '{"req_id":1,"token_idx":4294967296,"layer":0,"topk_ids":[1]}';
    await expect(openTrace(file('far.jsonl', content))).rejects.toThrow('token_idx is 4294967296, must be an integer from 0 to 4294967295');
  });

  it('as id dumps are refused by shape, before memory is taken for it', async () => {
    const dump = file('bad.experts.u8', 'abcd');
    file('bad.seq.u16le', 'ab');
    file('bad.shape.json', '{"model":"x","layers":1000000000,"topK":4,"experts":32}');
    await expect(openTrace(dump)).rejects.toThrow('layers is 1000000000, must be an integer from 1 to 1024');
    file('bad.shape.json', '{"model":"x","layers":1,"topK":4,"experts":32}');
    mkdirSync(join(dir, 'bad.sequences.json'));
    await expect(openTrace(dump)).rejects.toThrow('bad.sequences.json: file: cannot be read: EISDIR');
    file('bad.shape.json', 'null');
    await expect(openTrace(dump)).rejects.toThrow('not an object');
    file('bad.shape.json', '{');
    await expect(openTrace(dump)).rejects.toThrow('bad.shape.json: file:');
  });
});

describe('our own format', () => {
  it('reads what it wrote, whatever the chunks', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(4, 300),
        fc.array(fc.array(fc.nat(1000), { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 1, max: 64 }),
        async (experts, sequences, chunk) => {
          const trace = tinyTrace(experts, sequences);
          expect(await rewritten(trace, chunk)).toEqual(trace);
        },
      ),
      { numRuns: 30 },
    );
  });

  it('is known by its header, whatever its name', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'names-'));
    const trace = tinyTrace(4, [[1, 2], [3]]);
    const { chunks, sequences } = writeSwitchyardTrace(trace, 'now');
    const all = Buffer.concat([...chunks]);
    for (const name of ['r.jsonl', 'r.npy', 'r.experts.u8', 'r.json', 'r.jsonl.gz']) {
      writeFileSync(join(dir, name), name.endsWith('.gz') ? gzipSync(all) : all);
      writeFileSync(join(dir, `${name.replace('.gz', '')}.sequences.jsonl`), sequences);
      expect(await openTrace(join(dir, name))).toEqual({ kind: 'routing', trace });
    }
    rmSync(dir, { recursive: true });
  });

  it('names the place of a bad record', async () => {
    const { chunks } = writeSwitchyardTrace(tinyTrace(4, [[1, 2]]), 'now');
    const all = Buffer.concat([...chunks]);
    all[all.length - 1] = 9;
    await expect(readSwitchyardTrace(bytesOf(all), null, 'bad.trace')).rejects.toThrow(
      /bad\.trace: record 1 at byte \d+: expert id 9 of layer 1 is not below 4/,
    );
    // Two bytes an id, and neither is one of an expert: elsewhere it means that the router chose fewer.
    const wide = Buffer.concat([...writeSwitchyardTrace(tinyTrace(300, [[1]]), 'now').chunks]);
    wide.fill(0xff, wide.length - 2);
    await expect(readSwitchyardTrace(bytesOf(wide), null, 'bad.trace')).rejects.toThrow('expert id 65535 of layer 1 is not below 300');
    await expect(readSwitchyardTrace(bytesOf(all.subarray(0, all.length - 3)), null, 'cut.trace')).rejects.toThrow(
      /ends 3 bytes inside a record/,
    );
  });
});

describe('other formats', () => {
  it('keeps the order of a sequence whose tokens are not all together in an id dump', async () => {
    const sequences = Buffer.from(Uint16Array.from([0, 0, 1, 0, 0]).buffer);
    const shape = { model: 'm', layers: 1, topK: 1, experts: 8 };
    const trace = await readIdDump(bytesOf(Buffer.from([0, 1, 5, 2, 3])), bytesOf(sequences), null, shape, 'x');
    expect([...trace.ids]).toEqual([0, 1, 2, 3, 5]);
  });

  it('reads an ExFlow array', async () => {
    const header = "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 2), }".padEnd(117, ' ');
    const start = Buffer.concat([Buffer.from([0x93]), Buffer.from('NUMPY'), Buffer.from([1, 0, 118, 0]), Buffer.from(`${header}\n`)]);
    const values = Buffer.from(BigInt64Array.from([0n, 3n, 1n, 2n, 5n, 0n]).buffer);
    const trace = await readNpyTrace(() => bytesOf(start, values), 'x.npy', { sequenceTokens: 2 });
    expect(trace).toMatchObject({ experts: 6, topK: 1, tokens: 3 });
    expect([...trace.ids]).toEqual([0, 3, 1, 2, 5, 0]);
    expect([...trace.sequenceOf]).toEqual([0, 0, 1]);
    await expect(readNpyTrace(() => bytesOf(start, values.subarray(0, 40)), 'x.npy', { experts: 6 })).rejects.toThrow(
      /ends 8 bytes inside a record/,
    );
  });

  it('reads SGLang dumps: physical ids, positions, missing choices', async () => {
    const dump = JSON.stringify({
      records: [
        {
          forward_pass_id: 1,
          positions: [0, 1, 7],
          topk_ids_of_layer: [
            [
              [0, 1],
              [2, -1],
              [3, 1],
            ],
            [
              [1, 2],
              [0, 3],
              [2, 1],
            ],
          ],
        },
        { forward_pass_id: 2, topk_ids_of_layer: [[[1, 2]], [[3, 0]]], positions: [0] },
      ],
      last_physical_to_logical_map: [
        [0, 1, 2, 0],
        [2, 1, 0, 1],
      ],
    });
    const read = await readSglangDump(() => bytesOf(dump.slice(0, 50), dump.slice(50)), 'dump.json');
    if (read.kind !== 'routing') throw new Error('expected a routing trace');
    expect(read.trace).toMatchObject({ experts: 3, topK: 2, tokens: 4 });
    expect(read.trace.sequences.map((s) => s.tokens)).toEqual([2, 1, 1]);
    expect([...read.trace.ids.subarray(4, 8)]).toEqual([2, NO_EXPERT, 2, 1]);
    const counts = await readSglangDump(() => bytesOf('{"logical_count": [[[1,2],[3,4]],[[1,1],[1,1]]]}'), 'dump.json');
    expect(counts).toMatchObject({ kind: 'loads', loads: { layers: 2, experts: 2, counts: Float64Array.from([2, 3, 4, 5]) } });
    await expect(readSglangDump(() => bytesOf('{"topk_ids_of_layer": [[[0, 1], [2]]]}'), 'dump.json')).rejects.toThrow(/ragged/);
  });

  it('leaves dense layers out of SGLang dumps, which count all hidden layers', async () => {
    const dense = [
      [-1, -1],
      [-1, -1],
    ];
    const chosen = [
      [0, 1],
      [2, 3],
    ];
    const dump = (extra: object) => () => bytesOf(JSON.stringify({ topk_ids_of_layer: [dense, chosen, dense, chosen], ...extra }));
    const read = await readSglangDump(dump({}), 'dump.json');
    expect(read).toMatchObject({ kind: 'routing', trace: { moeLayers: [1, 3], experts: 4, topK: 2, tokens: 2 } });
    if (read.kind === 'routing') expect([...read.trace.ids]).toEqual([0, 1, 0, 1, 2, 3, 2, 3]);
    const counts = await readSglangDump(() => bytesOf('{"logical_count": [[0,0],[3,4],[0,0],[1,0]]}'), 'dump.json');
    expect(counts).toMatchObject({ loads: { layers: 2, moeLayers: [1, 3], counts: Float64Array.from([3, 4, 1, 0]) } });
    for (const logical of [65535, 65536, -1, 0.5]) {
      const mapped = () => bytesOf(JSON.stringify({ topk_ids_of_layer: [[[0]]], physical_to_logical_map: [[logical]] }));
      await expect(readSglangDump(mapped, 'dump.json', { experts: 8 })).rejects.toThrow(
        `sequence 1, position 0: layer 0: the map says that physical expert 0 is ${logical}, must be an integer from 0 to 65534`,
      );
    }
    await expect(readSglangDump(() => bytesOf('{"topk_ids_of_layer": [[[-1]]]}'), 'dump.json')).rejects.toThrow(/no token chose an expert/);
    const maps = (second: number[]) =>
      [[0, 1, 2, 3], second].map((row) => ({ topk_ids_of_layer: [chosen], physical_to_logical_map: [row] }));
    const moved = (second: number[]) => readSglangDump(() => bytesOf(JSON.stringify({ records: maps(second) })), 'dump.json');
    await expect(moved([3, 2, 1, 0])).rejects.toThrow('physical_to_logical_map is not the map that was given before; a file must have one');
    expect(await moved([0, 1, 2, 3])).toMatchObject({ kind: 'routing' });
    const slots = [0, 1, 2];
    await expect(readSglangDump(dump({ physical_to_logical_map: [slots, slots] }), 'dump.json')).rejects.toThrow(
      'dump.json: sequence 1, position 0: layer 3: the map of physical experts has 2 layers',
    );
    await expect(readSglangDump(dump({ physical_to_logical_map: [slots, slots, slots, slots] }), 'dump.json')).rejects.toThrow(
      'dump.json: sequence 1, position 1: layer 1: physical expert 3 is not below the 3 slots of the map',
    );
  });

  it('reads vLLM-style lines in any order and says which tokens lack layers', async () => {
    const line = (req_id: string, token_idx: number, layer: number, topk_ids: number[]) =>
      `${JSON.stringify({ req_id, token_idx, layer, topk_ids })}\n`;
    const lines = [
      line('a', 0, 3, [0, 1]),
      line('b', 0, 3, [2, 3]),
      line('a', 0, 5, [1, 2]),
      line('b', 0, 5, [3, 0]),
      line('a', 1, 5, [0, 3]),
      line('a', 1, 3, [2, 1]),
    ];
    const trace = await readVllmJsonl(() => bytesOf(...lines), 'x.jsonl');
    expect(trace).toMatchObject({ moeLayers: [3, 5], experts: 4, topK: 2, tokens: 3 });
    expect([...trace.ids.subarray(0, 8)]).toEqual([0, 1, 1, 2, 2, 1, 0, 3]);
    await expect(readVllmJsonl(() => bytesOf(...lines.slice(0, 5)), 'x.jsonl')).rejects.toThrow(/1 tokens lack layers/);
    await expect(readVllmJsonl(() => bytesOf(lines[0], '{"req_id":"a"}\n'), 'x.jsonl')).rejects.toThrow(/line 2: token_idx/);
  });

  it('bounds what vLLM-style tokens that lack a layer take, and the length of what it says', async () => {
    const line = (req_id: string, token_idx: number, layer: number, topk_ids: number[]) =>
      `${JSON.stringify({ req_id, token_idx, layer, topk_ids })}\n`;
    const wide = Array.from({ length: 1024 }, (_, layer) => line('a', 0, layer, [...Array(32).keys()])).join('');
    const many = Array.from({ length: 5000 }, (_, t) => line('b', t, 0, [1])).join('');
    await expect(readVllmJsonl(() => bytesOf(wide, many), 'x.jsonl')).rejects.toThrow('line 5121: more than 4096 tokens lack a layer');
    const long = Array.from({ length: 20_000 }, () => 7);
    for (const bad of [line('a', 0, 0, long), line('b'.repeat(5000), 0, 0, [1]), line('a', long as unknown as number, 0, [1])]) {
      const refused = await readVllmJsonl(() => bytesOf(bad), 'x.jsonl').catch((error: Error) => error.message);
      expect(refused).toMatch(/^x\.jsonl: line 1: /);
      expect((refused as string).length).toBeLessThan(300);
    }
  });

  it.skipIf(!existsSync('/proc/self/fd'))('leaves no file open that it refused', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'refused-'));
    const rest = 'x'.repeat(1 << 20);
    const names = ['a.jsonl', 'b.json', 'c.npy', 'd.trace', 'e.json.gz'];
    const starts = [
      '{"req_id":"a"}\n',
      '{"topk_ids_of_layer": [[[0, 1], [2]]], "x": "',
      'none',
      '{"format":"switchyard-trace","version":2}\n',
      '{"x":]',
    ];
    names.forEach((name, i) => {
      writeFileSync(join(dir, name), name.endsWith('.gz') ? gzipSync(starts[i] + rest) : starts[i] + rest);
    });
    const openNow = () => openFiles().filter((file) => file.startsWith(dir));
    for (const name of names) await expect(openTrace(join(dir, name))).rejects.toThrow(name);
    await vi.waitFor(() => expect(openNow()).toEqual([]));
    rmSync(dir, { recursive: true });
  });

  it('tells formats apart by name and content', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'placement-'));
    writeFileSync(join(dir, 'loads.json'), '[[1,2,3],[4,5,6]]');
    expect(await openTrace(join(dir, 'loads.json'))).toMatchObject({ kind: 'loads', loads: { layers: 2, experts: 3 } });
    writeFileSync(join(dir, 'm.experts.u8'), Buffer.from([0, 1, 2, 3, 4, 5, 6, 7]));
    writeFileSync(join(dir, 'm.seq.u16le'), Buffer.from([3, 0, 4, 0]));
    writeFileSync(join(dir, 'm.shape.json'), '{"model":"m","layers":2,"topK":2,"experts":8}');
    writeFileSync(join(dir, 'm.sequences.json'), '[{"sequence":4,"dataset":"qa","category":"law","tokens":1}]');
    const dump = await openTrace(join(dir, 'm.experts.u8'));
    expect(dump).toMatchObject({
      kind: 'routing',
      trace: {
        tokens: 2,
        sequences: [
          { sequence: 3, domain: null },
          { sequence: 4, domain: 'qa/law' },
        ],
      },
    });
    // No shape beside the ids: it can be given.
    writeFileSync(join(dir, 'bare.experts.u8.gz'), gzipSync(Buffer.from([0, 1, 2, 3, 4, 5, 6, 7])));
    writeFileSync(join(dir, 'bare.seq.u16le.gz'), gzipSync(Buffer.from([3, 0, 4, 0])));
    await expect(openTrace(join(dir, 'bare.experts.u8.gz'))).rejects.toThrow(
      'bare.shape.json: file: missing: an id dump does not say its shape',
    );
    const shaped = await openTrace(join(dir, 'bare.experts.u8.gz'), { shape: { layers: 2, topK: 2, experts: 8 } });
    expect(shaped).toMatchObject({ kind: 'routing', trace: { model: 'bare', tokens: 2, experts: 8 } });
    writeFileSync(join(dir, 'popularity.json'), '{"total_input_tokens": 7, "expert_popularity": [[1, 2, 3], [4, 5, 6]]}');
    expect(await openTrace(join(dir, 'popularity.json'))).toMatchObject({ kind: 'loads', loads: { layers: 2, experts: 3 } });
    writeFileSync(join(dir, 'ragged.json'), '{"expert_popularity": [[1, 2, 3], [4, 5]]}');
    await expect(openTrace(join(dir, 'ragged.json'))).rejects.toThrow('ragged.json: expert_popularity: expected [layers][experts]');
    writeFileSync(join(dir, 'what.bin'), 'hello');
    await expect(openTrace(join(dir, 'what.bin'))).rejects.toThrow(/none of the known trace formats/);
    rmSync(dir, { recursive: true });
  });
});

describe('bounds and splits', () => {
  it('says so where there is no memory for what the shape asks for', () => {
    const shape = { model: 'wide', moeLayers: Array.from({ length: 1000 }, (_, l) => l), experts: 64, topK: 32 };
    const builder = new TraceBuilder(shape, 'wide.trace', { tokensMax: 1e9 });
    const none = new Uint16Array(32_000).fill(NO_EXPERT);
    const fill = () => {
      for (let position = 0; position <= 1024; position++) builder.add(0, position, false, none, 0, () => 'here');
    };
    vi.stubGlobal(
      'Uint16Array',
      class {
        constructor(length: number) {
          throw new RangeError(`Invalid typed array length: ${length}`);
        }
      },
    );
    try {
      expect(fill).toThrow(
        'wide.trace: tokensMax: is 1000000000, must be below 2048: there is no memory for 2048 tokens of 1000 layers x top-32',
      );
    } finally {
      vi.unstubAllGlobals();
    }
  });

  it('are refused without room for a token', () => {
    for (const tokensMax of [0, -1, 0.5, Number.NaN])
      expect(() => new TraceBuilder({ model: 'm', moeLayers: [0], experts: 4, topK: 1 }, 'none', { tokensMax })).toThrow(
        `none: tokensMax: is ${tokensMax}, must be an integer of 1 at least`,
      );
  });

  it('thins by whole sequences when full, or refuses', () => {
    const fill = (whenFull: 'thin' | 'refuse') => {
      const builder = new TraceBuilder({ model: 'm', moeLayers: [0], experts: 4, topK: 1 }, 'long', { tokensMax: 200, whenFull });
      for (let s = 0; s < 100; s++) for (let p = 0; p < 10; p++) builder.add(s, p, true, [s % 4], 0, () => `token ${p}`);
      return builder.build();
    };
    const kept = fill('thin');
    expect(kept.tokens).toBeLessThanOrEqual(200);
    expect(kept.sequences.length).toBeGreaterThan(5);
    for (const { tokens } of kept.sequences) expect(tokens).toBe(10);
    expect(kept.wholeTokens).toBe(1000);
    expect(() => fill('refuse')).toThrow(/more than 200 tokens \(tokensMax\)/);
  });

  it('has no sequence in every sample, not the first either', () => {
    const kept = new Set<number>();
    for (let sequences = 100; sequences < 200; sequences++) {
      const builder = new TraceBuilder({ model: 'm', moeLayers: [0], experts: 4, topK: 1 }, 'long', { tokensMax: sequences >> 4 });
      for (let s = 0; s < sequences; s++) builder.add(s, 0, true, [0], 0, () => 'token');
      for (const { sequence } of builder.build().sequences) if (sequence < 2) kept.add(sequence);
    }
    expect([...kept]).toEqual([]);
  });

  it('keeps a sequence however few there are, and goes on behind one that is longer than memory', () => {
    const of = (lengths: number[]) => {
      const builder = new TraceBuilder({ model: 'm', moeLayers: [0], experts: 4, topK: 1 }, 'long', { tokensMax: 20 });
      lengths.forEach((tokens, s) => {
        for (let p = 0; p < tokens; p++) builder.add(s, p, true, [0], 0, () => `token ${p}`);
      });
      return builder.build().sequences.map(({ tokens }) => tokens);
    };
    for (let sequences = 2; sequences < 40; sequences++) expect(of(new Array(sequences).fill(15))).toEqual([15]);
    expect(of([30, ...new Array(60).fill(15)])).toEqual([15]);
  });

  it('says so where its only sequence is longer than memory', () => {
    const builder = new TraceBuilder({ model: 'm', moeLayers: [0], experts: 4, topK: 1 }, 'long', { tokensMax: 20 });
    for (let p = 0; p < 30; p++) builder.add(1, p, true, [0], 0, () => `token ${p}`);
    expect(() => builder.build()).toThrow('one sequence has more than 20 tokens (tokensMax)');
  });

  it('loads know their layers', () => {
    expect(expertLoads(tinyTrace(4, [[1, 2]])).moeLayers).toEqual([1, 3]);
  });

  it('a domain that the plan has not seen is like any other, whatever its name', async () => {
    const trace = await gptOssSlice();
    const sequences = trace.sequences.map((sequence) => ({ ...sequence, domain: 'constructor' }));
    const masks = trace.moeLayers.map(() => new Int32Array(32).fill(1));
    const homes = (of: RoutingTrace) => [
      ...chooseHomes(of, masks, evenCluster(2, 1, 800), { kind: 'domain', affinity: { otherwise: [0, 1], domains: {} } }, 1),
    ];
    expect(homes({ ...trace, sequences })).toEqual(homes(trace));
    expect(homes(trace)).toEqual(trace.sequences.map(() => 0));
  });

  it('holds out whole sequences', async () => {
    const trace = await gptOssSlice();
    const { train, test } = holdOut(trace, 0.25, 3);
    const names = (t: RoutingTrace) => t.sequences.map((s) => s.sequence);
    expect([...names(train), ...names(test)].sort((a, b) => a - b)).toEqual(names(trace).sort((a, b) => a - b));
    expect(test.tokens).toBeGreaterThanOrEqual(0.25 * trace.tokens);
    expect(test.tokens).toBeLessThan(0.3 * trace.tokens);
  });
});
