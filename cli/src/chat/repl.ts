import { createInterface } from 'node:readline';
import { ApiError, ServerGone } from '../api/client.ts';
import { type Colours, coloursOf } from '../terminal/colours.ts';
import { visible } from '../terminal/visible.ts';
import type { Answer, Conversation } from './conversation.ts';

export interface ReplStreams {
  input: NodeJS.ReadableStream & { isTTY?: boolean };
  output: NodeJS.WritableStream & { isTTY?: boolean };
  /** What went wrong goes here: output holds answers. */
  errors: NodeJS.WritableStream & { isTTY?: boolean };
}

const help = [
  '/system TEXT  set the system message (alone: remove it)',
  '/reset        forget the conversation',
  '/history      show it',
  '/quit         leave (also Ctrl-D)',
  'Ctrl-C        cancel the answer; at the prompt: leave',
].join('\n');

/**
 * Reads questions line by line and streams the answers. On a terminal it prompts, and Ctrl-C cancels an answer; otherwise each line of the input is a
 * question and only answers are written. Returns the number of questions that failed.
 *
 * @throws ServerGone where nobody is there to try again once the server is back
 */
export async function runRepl(conversation: Conversation, streams: ReplStreams): Promise<number> {
  const { input, output, errors } = streams;
  const interactive = Boolean(input.isTTY && output.isTTY);
  const { cyan, dim } = coloursOf(output);
  const lines = createInterface({ input, output, prompt: interactive ? cyan('you> ') : '', terminal: interactive, historySize: 1000 });
  let answering: AbortController | null = null;
  let ended = false;
  let failures = 0;
  lines.on('close', () => {
    ended = true;
  });
  lines.on('SIGINT', () => {
    if (answering) answering.abort();
    else lines.close();
  });
  const fail = (why: string) => {
    failures++;
    errors.write(`${coloursOf(errors).red(visible(why, errors))}\n`);
  };
  const prompt = () => {
    // Ctrl-D may have come during an answer, which is still given in full.
    if (interactive && !ended) lines.prompt();
  };
  try {
    prompt();
    for await (const line of lines) {
      const text = line.trim();
      if (text === '/quit' || text === '/exit') break;
      if (text.startsWith('/')) {
        const said = obey(text, conversation);
        const beside = interactive ? output : errors;
        if (said !== null) beside.write(`${visible(said, beside)}\n`);
        else if (interactive) output.write(`${unknown(text)}\n${help}\n`);
        else fail(`${unknown(text)}: a question may not begin with /`);
      } else if (text !== '') {
        answering = new AbortController();
        let begun = false;
        const show = (piece: string) => {
          begun = true;
          output.write(visible(piece, output));
        };
        try {
          const answer = await conversation.ask(text, show, answering.signal);
          output.write(`\n${interactive ? remark(answer, dim) : ''}`);
        } catch (error) {
          // The next answer has a line of its own.
          if (begun) output.write('\n');
          if (error instanceof ServerGone && !interactive) throw error;
          fail(explain(error));
        }
        answering = null;
      }
      prompt();
    }
  } finally {
    // Open, it would keep the process waiting for more input.
    lines.close();
  }
  return failures;
}

/** What is said of a command that was obeyed; null: there is no such. */
function obey(text: string, conversation: Conversation): string | null {
  const [command, ...words] = text.split(' ');
  switch (command) {
    case '/system': {
      const system = words.join(' ').trim();
      conversation.setSystem(system === '' ? null : system);
      return system === '' ? 'no system message' : 'system message set';
    }
    case '/reset':
      conversation.forget();
      return 'conversation forgotten';
    case '/history':
      return conversation.messages.map((m) => `${m.role}: ${m.content}`).join('\n') || 'nothing yet';
    case '/help':
      return help;
    default:
      return null;
  }
}

function unknown(text: string): string {
  return `unknown command ${text.split(' ')[0]}`;
}

function remark(answer: Answer, dim: Colours['dim']): string {
  const parts = [answer.finishReason === 'length' ? 'cut at the token limit' : answer.finishReason === 'cancelled' ? 'cancelled' : null];
  if (answer.promptTokens !== null && answer.outputTokens !== null) parts.push(`${answer.promptTokens} + ${answer.outputTokens} tokens`);
  const shown = parts.filter((part) => part !== null);
  return shown.length > 0 ? `${dim(`[${shown.join(', ')}]`)}\n` : '';
}

function explain(error: unknown): string {
  if (error instanceof ApiError) {
    const wait = error.retryAfterSeconds === null ? '' : ` (try again in ${error.retryAfterSeconds} s)`;
    const context = error.code === 'context_length_exceeded' ? '; /reset starts afresh' : '';
    return `${error.message}${wait}${context}`;
  }
  return error instanceof Error ? error.message : String(error);
}
