import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Builds what is not up to date, so that no test meets yesterday's program. `npm test` has just done it. */
export default function bringUpToDate(): void {
  if (process.env.npm_lifecycle_event === 'test') return;
  const setup = fileURLToPath(new URL('../scripts/setup.mjs', import.meta.url));
  const { status } = spawnSync(process.execPath, [setup], { stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new Error(`scripts/setup.mjs ended with status ${status}: what it said is above`);
}
