import { closeSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { writeSwitchyardTrace } from '@switchyard/placement';
import { Command } from 'commander';
import { readRouting } from '../place/files.ts';
import { integerIn } from '../terminal/option-values.ts';
import { checkNewOutput } from '../terminal/output-file.ts';

interface ConvertOptions {
  tokensMax: number;
  force?: boolean;
  json?: boolean;
}

export function traceConvertCommand(): Command {
  return new Command('convert')
    .description("Write a routing trace of any format as the project's own, which `up --replay-routing` reads")
    .argument('<from>', 'a trace of any format that `switchyard place` reads')
    .argument('<to>', 'where to write it; domains go to <to>.sequences.jsonl')
    .option('--tokens-max <count>', 'keep a sample of about this many tokens of a longer trace', integerIn(1, 50_000_000), 1_000_000)
    .option('--force', 'replace an existing file')
    .option('--json', 'print the counts as JSON')
    .addHelpText('after', '\nExample:\n  $ switchyard trace convert bench/placement/data/gpt-oss-20b.experts.u8.gz gpt-oss.trace')
    .action(async (from: string, to: string, options: ConvertOptions) => {
      const beside = `${to}.sequences.jsonl`;
      for (const file of [to, beside]) checkNewOutput(file, 'trace convert to', options.force === true);
      const trace = await readRouting(from, options.tokensMax);
      const { chunks, sequences } = writeSwitchyardTrace(trace, new Date().toISOString());
      // Traces reveal prompts: readable by their owner alone, whoever could read what is replaced.
      for (const file of [to, beside]) rmSync(file, { force: true });
      const file = openSync(to, 'wx', 0o600);
      for (const chunk of chunks) writeSync(file, chunk);
      closeSync(file);
      writeFileSync(beside, sequences, { mode: 0o600, flag: 'wx' });
      const counts = { tokens: trace.tokens, sequences: trace.sequences.length };
      process.stdout.write(
        options.json
          ? `${JSON.stringify({ format: 'switchyard-trace-conversion', version: 1, files: [to, beside], ...counts })}\n`
          : `wrote ${counts.tokens} tokens in ${counts.sequences} sequences to ${to}\n`,
      );
    });
}
