import type { Colours } from '../terminal/colours.ts';
import { describeEnd } from './child-process.ts';
import { crashLoopDeaths } from './restart-policy.ts';
import type { WorkerDeath } from './worker-fleet.ts';

/** What the terminal is told when a worker has died. Last words come once a crash loop: those of its next deaths are the same. Pure. */
export function explainDeath({ worker, end, restartMs, deathsInARow, lastLines }: WorkerDeath, { red, yellow }: Colours): string {
  const head = `worker ${worker.name} ${describeEnd(end)}; it starts again in ${(restartMs / 1000).toFixed(1)} s\n`;
  if (deathsInARow !== crashLoopDeaths) return yellow(head);
  const lastWords = lastLines.map((line) => `  ${line}\n`).join('');
  return `${red(`worker ${worker.name} is in a crash loop: ${deathsInARow} quick deaths in a row. Its last words:`)}\n${lastWords}${head}`;
}
