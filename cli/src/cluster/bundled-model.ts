import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The small model that comes with the project, served when no --model is given. Works from src/cluster and from dist/cluster. */
export function bundledModel(): string {
  return path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'models', 'shunter-16m');
}
