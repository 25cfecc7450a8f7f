import { closeSync, openSync, readSync } from 'node:fs';
import { badCheckpoint, quoted } from './bad-checkpoint.ts';
import type { TensorInfo } from './safetensors-header.ts';

/** The bytes of one small tensor. Throws `bad_checkpoint` if the file has shrunk since its header was read. */
export function readTensorBytes(tensor: TensorInfo): ArrayBuffer {
  const bytes = new Uint8Array(tensor.bytes);
  const file = openSync(tensor.file, 'r');
  try {
    for (let done = 0; done < bytes.length; ) {
      const got = readSync(file, bytes, done, bytes.length - done, tensor.offset + done);
      if (got === 0)
        throw badCheckpoint(tensor.file, `tensor ${quoted(tensor.name)} at offset ${tensor.offset}: the file ends inside it`, tensor.name);
      done += got;
    }
  } finally {
    closeSync(file);
  }
  return bytes.buffer;
}
