import { Command } from 'commander';
import { modelInspectCommand } from './model-inspect.ts';
import { modelVerifyCommand } from './model-verify.ts';

export function modelCommand(): Command {
  return new Command('model')
    .description('Look at and check checkpoints')
    .addCommand(modelInspectCommand())
    .addCommand(modelVerifyCommand());
}
