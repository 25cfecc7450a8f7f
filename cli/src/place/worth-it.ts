import { worthIt } from '@switchyard/placement';
import { limits } from '@switchyard/proto';
import { Command, Option } from 'commander';
import { interruptSignal } from '../commands/interrupt.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { integerIn } from '../terminal/option-values.ts';
import { counted } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import { print } from '../terminal/visible.ts';
import { evenNodes } from './even-topology.ts';
import { readRouting, readTopology } from './files.ts';
import { shares } from './option-values.ts';
import { ProgressLine } from './progress-line.ts';
import { addSearchOptions, placeOptions, refuseUnused, type SearchFlags } from './search-options.ts';

interface Flags extends SearchFlags {
  trace: string;
  topology?: string;
  nodes: number;
  levels: number[];
  json?: boolean;
}

export function worthItCommand(): Command {
  const command = new Command('worth-it')
    .description('Say from a short trace what placement and replicas could bring, before anything is changed')
    .requiredOption('--trace <file>', 'a routing trace; a thousand tokens of a few dozen sequences suffice')
    .option('--topology <file>', 'the cluster; by default --nodes equal ones')
    .option('--nodes <count>', 'equal nodes, where no topology is given', integerIn(2, limits.nodesMax), 4)
    .addOption(
      new Option('--levels <shares>', 'replica memory to try').argParser(shares).default([0, 0.125, 0.25, 0.5, 1], '0,12.5%,25%,50%,100%'),
    )
    .option('--json', 'print as JSON');
  return addSearchOptions(command, { starts: 1, sampleTokens: 6000 }).action(async (flags: Flags, given: Command) => {
    if (flags.topology !== undefined && given.getOptionValueSource('nodes') === 'cli')
      throw new CommandFailure(
        `--nodes ${flags.nodes} is for a cluster of equal nodes, but --topology ${flags.topology} says what there is`,
        {
          status: exitStatus.usage,
        },
      );
    refuseUnused(flags);
    const topology = flags.topology === undefined ? evenNodes(flags.nodes) : readTopology(flags.topology);
    const trace = await readRouting(flags.trace, flags.tokensMax, flags);
    const { signal, release } = interruptSignal();
    const line = new ProgressLine(null);
    const report = await worthIt(
      trace,
      topology,
      {
        ...placeOptions(flags, signal),
        onProgress: (p) => line.update(p.stage, p.incumbent),
      },
      flags.levels,
    );
    line.finish();
    release();
    if (signal.aborted) process.exitCode = exitStatus.interrupted; // after what was found until then
    if (flags.json) {
      print(`${JSON.stringify({ format: 'switchyard-place-worth-it', version: 1, ...report })}\n`);
      return;
    }
    const percent = (v: number) => `${(100 * v).toFixed(1)}%`;
    const rows = [
      [
        'contiguous, any home',
        '-',
        report.now.remoteNodes.toFixed(3),
        percent(report.now.homeShare),
        report.now.peakMean.toFixed(3),
        '-',
        '-',
      ],
      ...report.levels.map((l) => [
        `placed, +${percent(l.replicas)} replicas${l.stopped ? ' (stopped early)' : ''}`,
        l.fitted.remoteNodes.toFixed(3),
        l.heldOut.remoteNodes.toFixed(3),
        percent(l.heldOut.homeShare),
        l.heldOut.peakMean.toFixed(3),
        l.heldOutByDomain.remoteNodes.toFixed(3),
        report.now.remoteNodes === 0 ? '-' : percent(1 - l.heldOut.remoteNodes / report.now.remoteNodes),
      ]),
    ];
    const held =
      report.heldOutSequences > 0
        ? `${report.heldOutSequences} of them held out. "fitted" is what the plan reaches on the sequences it was made from.`
        : 'too few to hold any out: everything is measured on what the plan was made from, and new requests will reach less.';
    const left = flags.levels.slice(report.levels.length);
    print(
      `${textTable(['plan', 'r (fitted)', 'r', 'home share', 'peak/mean', 'r, home by domain', 'less traffic'], rows)}\n` +
        `${counted(report.tokens, 'token')} of ${counted(report.sequences, 'sequence')}, ${held}\n` +
        `${left.length > 0 ? `stopped early: not searched with ${left.map((r) => `+${percent(r)}`).join(', ')} replicas\n` : ''}`,
    );
  });
}
