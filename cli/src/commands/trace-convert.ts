import { Command } from 'commander';
import { CommandFailure, exitStatus } from '../failure.ts';
import { readRouting } from '../place/files.ts';
import { type IdShape, idShape, modelDirHelp } from '../place/option-values.ts';
import { integerIn } from '../terminal/option-values.ts';
import { checkNewOutput, sameFile } from '../terminal/output-file.ts';
import { counted } from '../terminal/quantity.ts';
import { print } from '../terminal/visible.ts';
import { writeConverted } from '../trace/converted-files.ts';
import { checkTraceName } from '../trace/trace-name.ts';
import { tokensText } from '../trace/trace-summary.ts';
import { interruptSignal } from './interrupt.ts';

interface ConvertOptions {
  tokensMax: number;
  shape?: IdShape;
  modelDir?: string;
  force?: boolean;
  json?: boolean;
}

export function traceConvertCommand(): Command {
  return new Command('convert')
    .description("Write a routing trace of any format as the project's own, which `up --replay-routing` reads")
    .argument('<from>', 'a trace of any format that `switchyard place` reads')
    .argument('<to>', 'where to write it; domains go to <to>.sequences.jsonl')
    .option('--tokens-max <count>', 'keep a sample of about this many tokens of a longer trace', integerIn(1, 50_000_000), 1_000_000)
    .option('--shape <LxKxE>', 'layers x top-k x experts of a dump of expert ids without .shape.json, like 24x4x32', idShape)
    .option('--model-dir <folder>', modelDirHelp)
    .option('--force', 'replace an existing file')
    .option('--json', 'print the counts as JSON')
    .addHelpText('after', '\nExample:\n  $ switchyard trace convert bench/placement/data/gpt-oss-20b.experts.u8.gz gpt-oss.trace')
    .action(async (from: string, to: string, options: ConvertOptions) => {
      checkTraceName(to, 'trace convert to');
      checkOther(from, to);
      for (const file of withSequences(to)) checkNewOutput(file, 'trace convert to', options.force === true);
      const trace = await readRouting(from, options.tokensMax, options);
      const interrupt = interruptSignal();
      const files = await writeConverted(trace, to, new Date().toISOString(), interrupt.signal)
        .catch(naming(to))
        .finally(interrupt.release);
      const counts = { tokens: trace.tokens, wholeTokens: trace.wholeTokens ?? trace.tokens, sequences: trace.sequences.length };
      print(
        options.json
          ? `${JSON.stringify({ format: 'switchyard-trace-conversion', version: 1, files, ...counts })}\n`
          : `wrote ${tokensText(counts)} in ${counted(counts.sequences, 'sequence')} to ${to}\n`,
      );
    });
}

/** Replaced by itself, a long trace would be lost but for the sample; nor may what lies beside one take the place of the other. */
function checkOther(from: string, to: string): void {
  for (const read of withSequences(from))
    for (const written of withSequences(to))
      if (sameFile(read, written))
        throw new CommandFailure(`trace convert to ${written}: it is the trace that is read, or lies beside it; choose another name`, {
          status: exitStatus.usage,
        });
}

/** A trace's own file, and the one beside it. */
const withSequences = (file: string) => [file, `${file}.sequences.jsonl`];

/** What the system says of a disk that is full does not say of which file. */
function naming(to: string): (error: unknown) => never {
  return (error) => {
    if (error instanceof Error && 'syscall' in error)
      throw new CommandFailure(`trace convert to ${to}: ${error.message}`, { cause: error });
    throw error;
  };
}
