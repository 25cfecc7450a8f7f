import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The built programs that processes are started from, found alike from src/cluster and dist/cluster. */
const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

export function builtProgram(part: 'cli' | 'worker' | 'coordinator' = 'cli'): string {
  return path.join(repository, part, 'dist', 'main.js');
}
