import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { type TraceHeader, TraceWriter } from '../src/index.ts';

vi.mock('../src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../src/limits.ts')>();
  return { limits: { ...limits, traceSequencesMax: 3 } };
});

const header: TraceHeader = {
  format: 'switchyard-trace',
  version: 1,
  model: 'm',
  moeLayers: [1, 3],
  experts: 8,
  topK: 2,
  createdAt: '2026-01-01T00:00:00Z',
};
const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-trace-'));
afterAll(() => rmSync(folder, { recursive: true }));
let recordings = 0;
const stem = () => path.join(folder, `recording-${recordings++}`);
/** u16 ids as a worker sends them. */
const ids = (...values: number[]) => new Uint8Array(Uint16Array.from(values).buffer);

function contents(file: string): { header: TraceHeader; records: Buffer; sequences: unknown[] } {
  const bytes = readFileSync(file);
  const end = bytes.indexOf(10);
  const lines = readFileSync(`${file}.sequences.jsonl`, 'utf8').split('\n').filter(Boolean);
  return {
    header: JSON.parse(bytes.subarray(0, end).toString()),
    records: bytes.subarray(end + 1),
    sequences: lines.map((l) => JSON.parse(l)),
  };
}

describe('TraceWriter', () => {
  it('writes the documented format', async () => {
    const writer = new TraceWriter(stem(), header);
    writer.append(7, 'novels', [0, 1], [false, true], ids(0, 1, 2, 3, 4, 5, 6, 7));
    writer.append(9, null, [0], [false], ids(7, 6, 5, 4));
    writer.append(7, 'novels', [2], [true], ids(1, 1, 1, 1));
    await writer.close();
    const [file] = writer.files;
    const got = contents(file);
    expect(got.header).toEqual(header);
    expect(got.records.toString('hex')).toBe(
      ['07000000 00000000 00 00010203', '07000000 01000000 01 04050607', '09000000 00000000 00 07060504', '07000000 02000000 01 01010101']
        .join('')
        .replaceAll(' ', ''),
    );
    expect(got.sequences).toEqual([
      { sequence: 7, domain: 'novels', tokens: 3 },
      { sequence: 9, domain: null, tokens: 1 },
    ]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(statSync(`${file}.sequences.jsonl`).mode & 0o777).toBe(0o600);
  });

  it('writes wide ids where a byte does not hold them', async () => {
    const writer = new TraceWriter(stem(), { ...header, experts: 300, moeLayers: [0], topK: 2 });
    writer.append(1, null, [5], [true], ids(299, 2));
    await writer.close();
    expect(contents(writer.files[0]).records.toString('hex')).toBe('0100000005000000012b010200');
  });

  it('writes ids in a byte up to 256 experts, and in two beyond', async () => {
    for (const [experts, hex] of [
      [256, 'ff00'],
      [257, 'ff000000'],
    ] as const) {
      const writer = new TraceWriter(stem(), { ...header, experts, moeLayers: [0], topK: 2 });
      writer.append(1, null, [5], [true], ids(255, 0));
      await writer.close();
      expect(contents(writer.files[0]).records.subarray(9).toString('hex')).toBe(hex);
    }
  });

  it('begins with what files are recognised by, in whatever order it is told', async () => {
    const { format, version, ...rest } = header;
    const writer = new TraceWriter(stem(), { ...rest, version, format });
    await writer.close();
    expect(readFileSync(writer.files[0], 'utf8')).toMatch(/^\{"format":"switchyard-trace","version":1,/);
  });

  it('fills a file up to its bound, and no further', async () => {
    const measured = new TraceWriter(stem(), header);
    await measured.close();
    const fileBytesMax = statSync(measured.files[0]).size + 2 * 13;
    const writer = new TraceWriter(stem(), header, { fileBytesMax });
    for (let position = 0; position < 3; position++) writer.append(4, null, [position], [true], ids(0, 1, 2, 3));
    await writer.close();
    expect(writer.files.map((file) => contents(file).records.length / 13)).toEqual([2, 1]);
  });

  it('leaves a file that is there already as it is', async () => {
    const base = stem();
    writeFileSync(`${base}-0000.trace`, 'mine');
    const writer = new TraceWriter(base, header);
    await expect(writer.close()).rejects.toThrow(/EEXIST/);
    expect(readFileSync(`${base}-0000.trace`, 'utf8')).toBe('mine');
  });

  it('begins a new file at the bound, each complete, and keeps the newest', async () => {
    const base = stem();
    const writer = new TraceWriter(base, header, { fileBytesMax: 200, filesMax: 3 });
    for (let position = 0; position < 60; position++) writer.append(4, 'd', [position], [true], ids(0, 1, 2, 3));
    await writer.close();
    expect(writer.files.length).toBe(3);
    expect(existsSync(`${base}-0000.trace`)).toBe(false);
    expect(existsSync(`${base}-0000.trace.sequences.jsonl`)).toBe(false);
    let next: number | null = null;
    for (const file of writer.files) {
      expect(statSync(file).size).toBeLessThanOrEqual(200);
      const got = contents(file);
      expect(got.header).toEqual(header);
      const positions = Array.from({ length: got.records.length / 13 }, (_, i) => got.records.readUInt32LE(13 * i + 4));
      expect(got.sequences).toEqual([{ sequence: 4, domain: 'd', tokens: positions.length }]);
      if (next !== null) expect(positions[0]).toBe(next);
      next = positions.at(-1)! + 1;
    }
    expect(next).toBe(60);
  });

  it('names the newest sequences of a file beside it, and keeps the rows of all', async () => {
    const writer = new TraceWriter(stem(), header);
    for (let sequence = 0; sequence < 5; sequence++) writer.append(sequence, `d${sequence}`, [0], [false], ids(0, 1, 2, 3));
    writer.append(3, 'd3', [1], [true], ids(0, 1, 2, 3));
    await writer.close();
    const got = contents(writer.files[0]);
    expect(got.records.length / 13).toBe(6);
    expect(got.sequences).toEqual([
      { sequence: 2, domain: 'd2', tokens: 1 },
      { sequence: 3, domain: 'd3', tokens: 2 },
      { sequence: 4, domain: 'd4', tokens: 1 },
    ]);
  });

  it('drops and counts rows when the disk does not keep up', async () => {
    const writer = new TraceWriter(stem(), header, { pendingBytesMax: 300 });
    for (let position = 0; position < 100; position++) writer.append(0, null, [position], [true], ids(0, 1, 2, 3));
    await writer.close();
    // The bound holds the line of the header and so many rows.
    const headerBytes = statSync(writer.files[0]).size - contents(writer.files[0]).records.length;
    expect(writer.droppedRows).toBe(100 - Math.floor((300 - headerBytes) / 13));
    expect(contents(writer.files[0]).records.length / 13).toBe(100 - writer.droppedRows);
  });

  it('refuses rows of another shape and experts that are none', async () => {
    const writer = new TraceWriter(stem(), header);
    expect(() => writer.append(0, null, [0], [true], ids(0, 1, 2))).toThrow(expect.objectContaining({ code: 'bad_frame' }));
    expect(() => writer.append(0, null, [0], [], ids(0, 1, 2, 3))).toThrow(expect.objectContaining({ code: 'bad_frame' }));
    expect(() => writer.append(0, null, [0], [true], ids(0, 1, 2, 8))).toThrow(/expert 8, must be below 8/);
    await writer.close();
    expect(contents(writer.files[0]).records.length).toBe(0);
  });

  it('fails at close when the disk does', async () => {
    const writer = new TraceWriter('/nonexistent-folder/recording', header);
    const rows = Uint8Array.from([0, 1, 2, 3, 4, 5, 6, 7].flatMap((id) => [id, 0]));
    writer.append(0, null, [0, 1], [true, true], rows);
    while (writer.droppedRows === 0) {
      await new Promise((resolve) => setImmediate(resolve));
      writer.append(0, null, [0, 1], [true, true], rows);
    }
    expect(writer.droppedRows).toBe(2);
    await expect(writer.close()).rejects.toThrow(/ENOENT/);
  });

  it('fails at close when the sequences cannot be written', async () => {
    const base = stem();
    mkdirSync(`${base}-0000.trace.sequences.jsonl`);
    await expect(new TraceWriter(base, header).close()).rejects.toThrow(/EISDIR/);
  });

  it('counts all rows of a sequence that comes in parts', async () => {
    const writer = new TraceWriter(stem(), header);
    const twoRows = ids(0, 1, 2, 3, 4, 5, 6, 7);
    for (const first of [0, 2]) writer.append(3, null, [first, first + 1], [false, false], twoRows);
    await writer.close();
    expect(contents(writer.files[0]).sequences).toEqual([{ sequence: 3, domain: null, tokens: 4 }]);
  });
});
