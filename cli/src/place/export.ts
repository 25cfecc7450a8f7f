import { type ExportFormat, exportPlan } from '@switchyard/placement';
import { Command, Option } from 'commander';
import { CommandFailure, exitStatus } from '../failure.ts';
import { integerIn } from '../terminal/option-values.ts';
import { checkOutput, sameFile, writeOutputs } from '../terminal/output-file.ts';
import { print } from '../terminal/visible.ts';
import { readPlan } from './files.ts';

export function exportCommand(): Command {
  return new Command('export')
    .description('Write a plan in the form of another engine')
    .argument('<plan>', 'a plan')
    .addOption(new Option('--format <engine>', 'whose form').choices(['sglang', 'vllm', 'trtllm']).makeOptionMandatory())
    .option(
      '--hidden-layers <count>',
      'layers of the model, which sglang counts (default: the last MoE layer is the last)',
      integerIn(1, 65_536),
    )
    .option('--out <file>', 'where to; by default standard output')
    .action((path: string, flags: { format: ExportFormat; hiddenLayers?: number; out?: string }) => {
      if (flags.hiddenLayers !== undefined && flags.format !== 'sglang')
        throw new CommandFailure(`--hidden-layers ${flags.hiddenLayers} is for --format sglang: ${flags.format} counts MoE layers alone`, {
          status: exitStatus.usage,
        });
      if (flags.out !== undefined && sameFile(path, flags.out))
        throw new CommandFailure(`--out ${flags.out} is the plan that is read; choose another name`, { status: exitStatus.usage });
      checkOutput(flags.out, '--out');
      const text = exportPlan(readPlan(path), flags.format, flags.hiddenLayers);
      if (flags.out === undefined) print(text);
      else writeOutputs([{ option: '--out', file: flags.out, text }]);
    });
}
