import { Command } from 'commander';
import { selectModel } from '../api/models.ts';
import { Conversation } from '../chat/conversation.ts';
import { runRepl } from '../chat/repl.ts';
import { exitStatus } from '../failure.ts';
import { coloursOf } from '../terminal/colours.ts';
import { integerIn, numberIn } from '../terminal/option-values.ts';
import { visible } from '../terminal/visible.ts';
import type { ServerOptions } from './server-options.ts';
import { connect, defaultUrl, withServerOptions } from './server-options.ts';

/** An answer may stream for as long as the context lasts; a minute without its end is normal, an hour is not. */
const answerMsMax = 60 * 60 * 1000;
/** What a server has is told at once. */
const modelsMsMax = 30_000;

interface ChatOptions extends ServerOptions {
  model?: string;
  system?: string;
  temperature: number;
  topP: number;
  maxTokens?: number;
  seed?: number;
}

export function chatCommand(): Command {
  const command = new Command('chat').description('Talk to a served model; answers stream as they are made');
  withServerOptions(command, defaultUrl)
    .option('--model <id>', 'model to talk to (default: the one served)')
    .option('--system <text>', 'system message')
    .option('--temperature <number>', '0 always takes the likeliest token', numberIn(0, 2), 0.7)
    .option('--top-p <number>', 'share of the probability to sample from', numberIn(0, 1), 0.95)
    .option('--max-tokens <count>', 'longest answer (default: what fits the context)', integerIn(1, 1_000_000))
    .option('--seed <number>', 'the same seed and conversation give the same answer', integerIn(0, Number.MAX_SAFE_INTEGER))
    .addHelpText(
      'after',
      `
Inside: /system TEXT, /reset, /history, /help, /quit. Ctrl-C cancels an answer.

Examples:
  $ switchyard chat
  $ switchyard chat --temperature 0 --system "Answer in one line."
  $ echo "Which book is this from? He heaved his harpoon at the whale, and the boat was dragged through the foam." | switchyard chat --temperature 0`,
    )
    .action(async (options: ChatOptions) => {
      const asking = connect(options, modelsMsMax);
      const card = await selectModel(asking, options.model ?? null).finally(() => asking.close());
      const client = connect(options, answerMsMax);
      const settings = {
        model: card.id,
        temperature: options.temperature,
        topP: options.topP,
        maxTokens: options.maxTokens ?? null,
        seed: options.seed ?? null,
      };
      const { stdin: input, stdout: output, stderr: errors } = process;
      // A file holds answers alone.
      const beside = output.isTTY ? output : errors;
      if (input.isTTY) beside.write(coloursOf(beside).dim(`${visible(card.id, beside)} at ${client.baseUrl}; /help lists commands\n`));
      const failures = await runRepl(new Conversation(client, settings, options.system ?? null), { input, output, errors }).finally(() =>
        client.close(),
      );
      if (failures > 0 && !(input.isTTY && output.isTTY)) process.exitCode = exitStatus.failed;
    });
  return command;
}
