import { existsSync } from 'node:fs';
import path from 'node:path';
import { availableCpus, type Backend, limits } from '@switchyard/proto';
import { Command, Option } from 'commander';
import { clusterShape } from '../cluster/cluster-shape.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { checkModelFolder } from '../terminal/model-folder.ts';
import { backendList, integerIn } from '../terminal/option-values.ts';
import { startProgress } from '../terminal/progress.ts';
import { print } from '../terminal/visible.ts';
import { verifyApart } from '../verify/verify-apart.ts';
import { interruptSignal } from './interrupt.ts';

interface VerifyOptions {
  nodes?: number;
  workersPerNode?: number;
  plan?: string;
  backend: Backend[];
  isa: 'auto' | 'avx512' | 'avx2';
  threads?: number;
  json?: boolean;
}

export function modelVerifyCommand(): Command {
  return new Command('verify')
    .description("Check a checkpoint against an independent implementation's logits, whole and split over workers")
    .argument('<dir>', 'model folder with an expected.safetensors')
    .option('--nodes <count>', 'nodes of the split (default: 2, or what the plan says)', integerIn(1, limits.nodesMax))
    .option('--workers-per-node <count>', 'workers in each (default: 2, or what the plan says)', integerIn(1, limits.workersMax))
    .option('--plan <file>', 'where each expert lives in the split (default: even, contiguous ranges)')
    .addOption(
      new Option('--backend <list>', 'kernels: cpu, cuda:N, cpu-ref (the slow oracle); of several, the workers of the split take turns')
        .argParser(backendList)
        .default(['cpu'], 'cpu'),
    )
    .addOption(new Option('--isa <name>', 'instruction set').choices(['auto', 'avx512', 'avx2']).default('auto'))
    .option('--threads <count>', 'threads (default: all CPUs)', integerIn(1, 1024))
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Exits with 1 where the checkpoint falls short of the reference, or the split of the whole.

Examples:
  $ switchyard model verify test/golden/mixtral
  $ switchyard model verify test/golden/gpt_oss --nodes 3 --workers-per-node 1 --json
  $ switchyard model verify test/golden/olmoe --backend cpu,cuda`,
    )
    .action(async (dir: string, options: VerifyOptions) => {
      checkModelFolder(dir);
      if (!existsSync(path.join(dir, 'expected.safetensors')))
        throw new CommandFailure(`${dir}: it has no expected.safetensors, the logits to compare with (docs/models.md)`, {
          status: exitStatus.usage,
        });
      const shape = clusterShape(options);
      const { isa, threads = availableCpus().length } = options;
      const progress = startProgress('verify');
      const interrupt = interruptSignal();
      // What is being computed cannot be called off; the process can end without it.
      interrupt.signal.addEventListener('abort', () => {
        progress.finish();
        process.exit(exitStatus.interrupted);
      });
      try {
        const request = {
          dir,
          nodes: new Set(shape.workers.map((worker) => worker.node)).size,
          workersPerNode: options.workersPerNode ?? 2,
          plan: shape.plan,
          devices: options.backend.map((backend) => ({ backend, isa, threads, cpus: null })),
        };
        const report = await verifyApart(request, progress.update);
        progress.finish();
        // Only here: the kernels that it loads may be what is wrong with a machine, and no other command needs them.
        const { formatVerifyReport } = await import('@switchyard/worker');
        print(options.json ? `${JSON.stringify(report, null, 2)}\n` : `${formatVerifyReport(report)}\n`);
        if (report.status === 'fail') throw new CommandFailure(`${dir} falls short of its reference, or its split of the whole`);
      } finally {
        progress.finish();
        interrupt.release();
      }
    });
}
