// The little of the safetensors format that benchmark models need: one file, written in one pass; sharded directories read by tensor.
import { closeSync, existsSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import path from 'node:path';

const BYTES = { BF16: 2, F16: 2, F32: 4 };

/** @param {{name: string, dtype: 'BF16'|'F32', shape: number[], fill: (out: Uint8Array) => void}[]} tensors filled one at a time, in order */
export function writeSafetensors(file, tensors) {
  const header = {};
  let offset = 0;
  for (const t of tensors) {
    const bytes = t.shape.reduce((a, b) => a * b, 1) * BYTES[t.dtype];
    header[t.name] = { dtype: t.dtype, shape: t.shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (text.length % 8)) % 8);
  const fd = openSync(file, 'w');
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeSync(fd, length);
  writeSync(fd, text);
  for (const t of tensors) {
    const [from, to] = header[t.name].data_offsets;
    const data = new Uint8Array(to - from);
    t.fill(data);
    writeSync(fd, data);
  }
  closeSync(fd);
}

/** @returns {Map<string, {dtype: string, shape: number[], read: () => Buffer}>} */
export function openSafetensors(dir) {
  const index = path.join(dir, 'model.safetensors.index.json');
  const files = existsSync(index) ? [...new Set(Object.values(JSON.parse(readFileSync(index, 'utf8')).weight_map))] : ['model.safetensors'];
  const tensors = new Map();
  for (const name of files) {
    const fd = openSync(path.join(dir, name), 'r');
    const head = Buffer.alloc(8);
    readSync(fd, head, 0, 8, 0);
    const size = Number(head.readBigUInt64LE());
    const text = Buffer.alloc(size);
    readSync(fd, text, 0, size, 8);
    for (const [tensor, info] of Object.entries(JSON.parse(text.toString('utf8')))) {
      if (tensor === '__metadata__') continue;
      const [from, to] = info.data_offsets;
      tensors.set(tensor, {
        dtype: info.dtype,
        shape: info.shape,
        read() {
          const out = Buffer.alloc(to - from);
          readSync(fd, out, 0, to - from, 8 + size + from);
          return out;
        },
      });
    }
  }
  return tensors;
}
