import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { badCheckpoint } from './bad-checkpoint.ts';

/**
 * A file that is read for as long as its model is served: who writes to it changes what the model says. Replacing it by another file of its name is harmless where the disk is this
 * machine's: who has it open goes on reading the old one.
 */
export class WatchedFile {
  private readonly file: number;
  private readonly bytes: bigint;
  private readonly modifiedNs: bigint;

  constructor(path: string) {
    try {
      this.file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (cause) {
      throw badCheckpoint(path, `cannot be opened (${(cause as NodeJS.ErrnoException).code ?? 'error'})`, null, cause);
    }
    const { size, mtimeNs } = fstatSync(this.file, { bigint: true });
    this.bytes = size;
    this.modifiedNs = mtimeNs;
  }

  get isWritten(): boolean {
    try {
      const { size, mtimeNs } = fstatSync(this.file, { bigint: true });
      return size !== this.bytes || mtimeNs !== this.modifiedNs;
    } catch {
      // A file server says of one that was replaced that it is no longer there.
      return true;
    }
  }

  close(): void {
    closeSync(this.file);
  }
}
