import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { benchCommand } from './commands/bench.ts';
import { chatCommand } from './commands/chat.ts';
import { doctorCommand } from './commands/doctor.ts';
import { modelCommand } from './commands/model.ts';
import { partCommand } from './commands/part-program.ts';
import { traceCommand } from './commands/trace.ts';
import { trafficCommand } from './commands/traffic.ts';
import { upCommand } from './commands/up.ts';

import { placeCommand } from './place/index.ts';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };

/** Every command, one file each in commands/. */
export function createProgram(): Command {
  const program = new Command('switchyard')
    .description('Serves Mixture-of-Experts models whose experts are spread over many workers')
    .version(version)
    .enablePositionalOptions()
    .addCommand(upCommand())
    .addCommand(partCommand('coordinator', 'Run the coordinator alone'))
    .addCommand(partCommand('worker', 'Run one worker alone'))
    .addCommand(chatCommand())
    .addCommand(modelCommand())
    .addCommand(benchCommand())
    .addCommand(traceCommand())
    .addCommand(trafficCommand())
    .addCommand(placeCommand())
    .addCommand(doctorCommand());
  for (const command of withDescendants(program)) command.exitOverride().showHelpAfterError('(--help shows the options)');
  return program;
}

/** The command and all below it. */
export function withDescendants(command: Command): Command[] {
  return [command, ...command.commands.flatMap((child) => withDescendants(child as Command))];
}
