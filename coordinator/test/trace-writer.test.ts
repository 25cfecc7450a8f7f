import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { openTrace } from '@switchyard/placement';
import type { TraceHeader } from '@switchyard/proto';
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { TraceWriter, type TraceWriterOptions } from '../src/trace/trace-writer.ts';
import { becomes } from './becomes.ts';

vi.mock('../../proto/src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../../proto/src/limits.ts')>();
  return { limits: { ...limits, traceSequencesMax: 3 } };
});

/** What may still be written. */
const disk = vi.hoisted(() => ({ roomBytes: Number.POSITIVE_INFINITY }));
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const write = (descriptor: number, bytes: Uint8Array, offset: number, done: (error: Error | null, bytes?: number) => void) => {
    if (disk.roomBytes === 0) return done(new Error('ENOSPC: no space left on device'));
    fs.write(descriptor, bytes, offset, Math.min(bytes.length - offset, disk.roomBytes), null, (error, written) => {
      disk.roomBytes -= written;
      done(error, { bytesWritten: written } as never);
    });
  };
  return { ...fs, write };
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
const failures: string[] = [];
beforeEach(() => failures.splice(0));
const traceWriter = (base: string, ofHeader: TraceHeader, options: Partial<TraceWriterOptions> = {}) =>
  new TraceWriter(base, ofHeader, (error) => failures.push(error.message), options);
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
    const writer = traceWriter(stem(), header);
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
    const writer = traceWriter(stem(), { ...header, experts: 300, moeLayers: [0], topK: 2 });
    writer.append(1, null, [5], [true], ids(299, 2));
    await writer.close();
    expect(contents(writer.files[0]).records.toString('hex')).toBe('0100000005000000012b010200');
  });

  it('writes ids in a byte up to 256 experts, and in two beyond', async () => {
    for (const [experts, hex] of [
      [256, 'ff00'],
      [257, 'ff000000'],
    ] as const) {
      const writer = traceWriter(stem(), { ...header, experts, moeLayers: [0], topK: 2 });
      writer.append(1, null, [5], [true], ids(255, 0));
      await writer.close();
      expect(contents(writer.files[0]).records.subarray(9).toString('hex')).toBe(hex);
    }
  });

  it('begins with what files are recognised by, in whatever order it is told', async () => {
    const { format, version, ...rest } = header;
    const writer = traceWriter(stem(), { ...rest, version, format });
    await writer.close();
    expect(readFileSync(writer.files[0], 'utf8')).toMatch(/^\{"format":"switchyard-trace","version":1,/);
  });

  it('fills a file up to its bound, and no further', async () => {
    const measured = traceWriter(stem(), header);
    await measured.close();
    const fileBytesMax = statSync(measured.files[0]).size + 2 * 13;
    const writer = traceWriter(stem(), header, { fileBytesMax });
    for (let position = 0; position < 3; position++) writer.append(4, null, [position], [true], ids(0, 1, 2, 3));
    await writer.close();
    expect(writer.files.map((file) => contents(file).records.length / 13)).toEqual([2, 1]);
  });

  it('leaves a file that is there already as it is', async () => {
    const base = stem();
    writeFileSync(`${base}-0000.trace`, 'mine');
    expect(() => traceWriter(base, header)).toThrow(/EEXIST/);
    expect(readFileSync(`${base}-0000.trace`, 'utf8')).toBe('mine');
  });

  it('begins a new file at the bound, each complete, and keeps the newest', async () => {
    const base = stem();
    const writer = traceWriter(base, header, { fileBytesMax: 200, filesMax: 3 });
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
    const writer = traceWriter(stem(), header);
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
    const writer = traceWriter(stem(), header, { pendingBytesMax: 300 });
    for (let position = 0; position < 100; position++) writer.append(0, null, [position], [true], ids(0, 1, 2, 3));
    await writer.close();
    // The bound holds the line of the header and so many rows.
    const headerBytes = statSync(writer.files[0]).size - contents(writer.files[0]).records.length;
    expect(writer.droppedRows).toBe(100 - Math.floor((300 - headerBytes) / 13));
    expect(contents(writer.files[0]).records.length / 13).toBe(100 - writer.droppedRows);
  });

  it('refuses rows of another shape and experts that are none', async () => {
    const writer = traceWriter(stem(), header);
    expect(() => writer.append(0, null, [0], [true], ids(0, 1, 2))).toThrow(expect.objectContaining({ code: 'bad_frame' }));
    expect(() => writer.append(0, null, [0], [], ids(0, 1, 2, 3))).toThrow(expect.objectContaining({ code: 'bad_frame' }));
    expect(() => writer.append(0, null, [0], [true], ids(0, 1, 2, 8))).toThrow(/expert 8, must be below 8/);
    await writer.close();
    expect(contents(writer.files[0]).records.length).toBe(0);
  });

  it('cannot begin where there can be no file, and leaves none behind', () => {
    expect(() => traceWriter('/nonexistent-folder/recording', header)).toThrow(/ENOENT/);
    const base = stem();
    mkdirSync(`${base}-0000.trace.sequences.jsonl`);
    expect(() => traceWriter(base, header)).toThrow(/EEXIST/);
    expect(existsSync(`${base}-0000.trace`)).toBe(false);
  });

  it('tells at once that there can be no further file, and keeps those that are there whole', async () => {
    const base = stem();
    mkdirSync(`${base}-0001.trace`);
    const writer = traceWriter(base, header, { fileBytesMax: 200 });
    for (let position = 0; failures.length === 0; position++) writer.append(4, 'd', [position], [true], ids(0, 1, 2, 3));
    expect(failures).toEqual([expect.stringMatching(/^EEXIST/)]);
    expect(writer.failure?.message).toBe(failures[0]);
    expect(writer.droppedRows).toBe(1);
    writer.append(4, 'd', [99], [true], ids(0, 1, 2, 3));
    expect(writer.droppedRows).toBe(2);
    expect(failures).toHaveLength(1);
    const { rows } = writer;
    await expect(writer.close()).rejects.toThrow(/EEXIST/);
    expect(writer.files).toHaveLength(1);
    expect(contents(writer.files[0])).toMatchObject({
      records: { length: 13 * rows },
      sequences: [{ sequence: 4, domain: 'd', tokens: rows }],
    });
  });

  it('leaves whole records, and counts them alone, where the disk is full in the middle of one', async () => {
    const writer = traceWriter(stem(), header);
    for (let position = 0; position < 3; position++) writer.append(1, 'd', [position], [true], ids(0, 1, 2, 3));
    await becomes(() => contents(writer.files[0]).records.length === 39);
    disk.roomBytes = 2 * 13 + 5;
    for (let position = 3; position < 9; position++) writer.append(1, 'd', [position], [true], ids(0, 1, 2, 3));
    await becomes(() => failures.length > 0);
    disk.roomBytes = Number.POSITIVE_INFINITY;
    expect(failures).toEqual([expect.stringMatching(/^ENOSPC/)]);
    expect([writer.rows, writer.droppedRows]).toEqual([5, 4]);
    await expect(writer.close()).rejects.toThrow(/ENOSPC/);
    expect(contents(writer.files[0]).records.length).toBe(5 * 13);
  });

  it('names sequences as they begin: what a process leaves that is killed is complete', async () => {
    const writer = traceWriter(stem(), header);
    for (const position of [0, 1]) {
      writer.append(7, 'novels', [position], [false], ids(0, 1, 2, 3));
      writer.append(9, null, [position], [false], ids(0, 1, 2, 3));
    }
    const [file] = writer.files;
    // The file is there before its first line is.
    await becomes(
      () => readFileSync(file).includes(10) && contents(file).records.length === 4 * 13 && contents(file).sequences.length === 2,
    );
    expect(statSync(`${file}.sequences.jsonl`).mode & 0o777).toBe(0o600);
    const opened = await openTrace(file);
    expect(opened.kind === 'routing' && opened.trace.sequences).toEqual([
      { sequence: 7, domain: 'novels', tokens: 2 },
      { sequence: 9, domain: null, tokens: 2 },
    ]);
    await writer.close();
    expect(contents(file).sequences).toEqual(opened.kind === 'routing' && opened.trace.sequences);
  });

  it('counts the rows and sequences of the files that it has kept', async () => {
    const writer = traceWriter(stem(), header, { fileBytesMax: 200, filesMax: 2 });
    const append = (sequence: number, position: number) => writer.append(sequence, null, [position], [true], ids(0, 1, 2, 3));
    append(1, 0);
    append(2, 0);
    for (let position = 1; position < 40; position++) append(2, position);
    append(3, 0);
    await writer.close();
    expect(writer.rows).toBe(writer.files.reduce((sum, file) => sum + contents(file).records.length / 13, 0));
    expect(writer.rows).toBeLessThan(20);
    expect(writer.sequences).toBe(2);
    expect(writer.droppedRows).toBe(0);
  });

  it('counts all rows of a sequence that comes in parts', async () => {
    const writer = traceWriter(stem(), header);
    const twoRows = ids(0, 1, 2, 3, 4, 5, 6, 7);
    for (const first of [0, 2]) writer.append(3, null, [first, first + 1], [false, false], twoRows);
    await writer.close();
    expect(contents(writer.files[0]).sequences).toEqual([{ sequence: 3, domain: null, tokens: 4 }]);
  });
});
