import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { Command } from 'commander';
import { builtProgram } from '../cluster/programs.ts';
import { CommandFailure } from '../failure.ts';

/**
 * `switchyard coordinator` and `switchyard worker`: the part's own program with its own flags and help. It runs in this very process, so that signals and
 * exit statuses are its own.
 */
export function partCommand(part: 'coordinator' | 'worker', description: string): Command {
  return new Command(part)
    .description(`${description}; \`switchyard ${part} --help\` lists its flags`)
    .argument('[flags...]')
    .allowUnknownOption()
    .passThroughOptions()
    .helpOption(false)
    .action(async (flags: string[]) => {
      const program = builtProgram(part);
      if (!existsSync(program)) throw new CommandFailure(`${program} is not built: npm run build`);
      process.argv.splice(1, process.argv.length, program, ...flags);
      await import(pathToFileURL(program).href);
    });
}
