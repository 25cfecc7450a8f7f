import { diffPlans, inWorkerOrder } from '@switchyard/placement';
import { Command } from 'commander';
import { byteCount } from '../terminal/option-values.ts';
import { formatBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import { print } from '../terminal/visible.ts';
import { readPlan } from './files.ts';

export function diffCommand(): Command {
  return new Command('diff')
    .description('Say what must be copied and dropped to get from one plan to another')
    .argument('<from>', 'a plan')
    .argument('<to>', 'a plan for the same layers and workers')
    .option('--expert-bytes <size>', 'size of one expert', byteCount)
    .option('--json', 'print as JSON')
    .action((fromPath: string, toPath: string, flags: { expertBytes?: number; json?: boolean }) => {
      const to = readPlan(toPath);
      const from = inWorkerOrder(readPlan(fromPath), to.workers);
      const diff = diffPlans(from, to, flags.expertBytes ?? 1);
      if (flags.json) {
        const { copies, drops } = diff;
        const report = { format: 'switchyard-place-diff', version: 1, ...(flags.expertBytes === undefined ? { copies, drops } : diff) };
        print(`${JSON.stringify(report)}\n`);
        return;
      }
      const rows = to.workers.map((w, i) => [
        w.name,
        diff.copies.filter((c) => c.to === i).length,
        diff.copies.filter((c) => c.to === i && from.workers[c.from].node !== w.node).length,
        diff.drops.filter((d) => d.worker === i).length,
      ]);
      const size =
        flags.expertBytes === undefined ? '' : `, ${formatBytes(diff.bytes)} (${formatBytes(diff.interNodeBytes)} between nodes)`;
      print(
        `${textTable(['worker', 'copies', 'from other nodes', 'drops'], rows)}\n${diff.copies.length} copies, ${diff.drops.length} drops${size}\n`,
      );
    });
}
