import { fileURLToPath } from 'node:url';

/**
 * The compiled program of a thread. Threads run JavaScript only, so that a process started from the sources (tests) takes them from dist/.
 *
 * @param name path below src/ without extension, e.g. "health/health-thread"
 */
export function threadFile(name: string): string {
  return fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url));
}
