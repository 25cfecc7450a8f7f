import { Command } from 'commander';
import { CommandFailure, exitStatus } from '../failure.ts';
import { byteCount } from '../terminal/option-values.ts';
import { diffCommand } from './diff.ts';
import { exportCommand } from './export.ts';
import { groupRule, modelDirHelp, partialShare, share, windowWidth } from './option-values.ts';
import { type PlaceFlags, placeAction } from './place-action.ts';
import { addSearchOptions } from './search-options.ts';
import { verifyCommand } from './verify.ts';
import { whatIfCommand } from './what-if.ts';
import { worthItCommand } from './worth-it.ts';

/** `switchyard place`: from routing traces to plans with a proven gap. */
export function placeCommand(): Command {
  const command = new Command('place')
    .description('Decide where every expert and replica lives, from a routing trace; prove how good that is')
    .option('--trace <file>', 'required: a routing trace or a load matrix, in any format that is known (docs/placement.md)')
    .option('--topology <file>', 'required: nodes, workers, memory and links')
    .option('--model-dir <folder>', modelDirHelp)
    .option('--replicas <share>', 'memory for replicas, as a share of one copy of everything', share, 0.25)
    .option(
      '--groups <rule>',
      "keep every group of experts whole on one node: free, whole, or whole with the number of a layer's groups (default: whole where the trace names groups)",
      groupRule,
    )
    .option('--current <plan>', 'the plan in force: what "now" means, and what bytes to move are counted from')
    .option('--budget-bytes <size>', 'with --current: move no more than this', byteCount)
    .option('--out <file>', 'where the plan goes', 'plan.json')
    .option('--certificate <file>', 'write the proof of the bound')
    .option('--prove <how>', 'windows=N: prove the chain model by windows of N layers; tighter, minutes', windowWidth)
    .option('--calibration <file>', 'what `switchyard bench calibrate` measured: device and links of predicted step times')
    .option('--pareto <file>', 'write the trade-off between locality, balance, memory and bytes moved as an HTML page')
    .option('--held-out <share>', 'share of the sequences that figures are measured on and the plan is not made from', partialShare, 0.25)
    .option('--dry-run', 'show everything, write nothing')
    .option('--json', 'print as JSON')
    .addHelpText(
      'after',
      '\nExample:\n  $ switchyard place --trace requests.trace --topology cluster.json --replicas 25% --dry-run\n\nCtrl-C ends the search and goes on with the best plan so far.',
    );
  // Commander would ask the subcommands for a mandatory option of their parent, so these two are checked here.
  addSearchOptions(command).action((flags: Partial<PlaceFlags>, given: Command) => {
    const [stray] = given.args;
    if (stray !== undefined)
      throw new CommandFailure(
        `place has no ${stray}: there are ${command.commands.map((child) => child.name()).join(', ')}; without one it needs --trace and --topology`,
        { status: exitStatus.usage },
      );
    for (const name of ['trace', 'topology'] as const)
      if (flags[name] === undefined)
        throw new CommandFailure(`place needs --${name} <file> (--help shows the options)`, { status: exitStatus.usage });
    return placeAction(flags as PlaceFlags, optionsGiven(given));
  });
  for (const child of [worthItCommand(), whatIfCommand(), diffCommand(), exportCommand(), verifyCommand()]) command.addCommand(child);
  // A mistyped subcommand is an argument to commander, which would say that there is one too many.
  return command.enablePositionalOptions().allowExcessArguments();
}

/** Options that were given on the command line, as opposed to those that have their default. */
function optionsGiven(command: Command): string[] {
  return command.options.filter((o) => command.getOptionValueSource(o.attributeName()) === 'cli').map((o) => o.long ?? o.flags);
}
