import { Command } from 'commander';
import { modelVerifyCommand } from './model-verify.ts';

export function modelCommand(): Command {
  return new Command('model').description('Look at and check checkpoints').addCommand(modelVerifyCommand());
}
