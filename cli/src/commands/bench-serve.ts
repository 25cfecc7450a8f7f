import { Command, Option } from 'commander';
import type { ApiClient } from '../api/client.ts';
import type { ModelCard } from '../api/models.ts';
import { selectModel } from '../api/models.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import type { LevelReport } from '../load/level-report.ts';
import { describeMachine } from '../load/machine.ts';
import {
  charsPerTokenByServer,
  randomIdPrompts,
  textIdPrompts,
  textPlaces,
  textPrompts,
  tokenizeByServer,
  type UsedPlaces,
  vocabOf,
  windowPlaces,
} from '../load/prompts.ts';
import { serveBench } from '../load/serve-bench.ts';
import type { ServeReport, ServeWorkload } from '../load/serve-report.ts';
import { formatServeReport } from '../load/serve-report.ts';
import type { CompletionRequest } from '../load/timed-completion.ts';
import { integerIn, integerList, numberIn } from '../terminal/option-values.ts';
import { checkOutput, writeOutputs } from '../terminal/output-file.ts';
import { startProgress } from '../terminal/progress.ts';
import { counted } from '../terminal/quantity.ts';
import { readText } from '../terminal/text-file.ts';
import { print } from '../terminal/visible.ts';
import { withTargetServer } from './bench-target.ts';
import { checkUpFlags } from './bench-up-flags.ts';
import { interruptSignal } from './interrupt.ts';
import { withServerOptions } from './server-options.ts';

interface ServeOptions {
  url?: string;
  apiKeyFile?: string;
  model?: string;
  concurrency: number[];
  requests?: number;
  warmup?: number;
  promptTokens: number;
  outputTokens: number;
  sharedPrefix: number;
  text?: string;
  chat?: boolean;
  vocab?: number;
  stopAtEos?: boolean;
  temperature: number;
  seed: number;
  timeout: number;
  extra?: string;
  label?: string;
  out?: string;
  json?: boolean;
}

/** Enough for the median of every level to be steady, without letting one client run for minutes. */
const requestsAtLeast = 8;
const requestsPerClient = 3;
const warmupMost = 4;

export function benchServeCommand(): Command {
  const command = new Command('serve').description('Measure a server under load: first token, gaps between tokens, throughput');
  withServerOptions(command)
    .argument('[up-flags...]', 'after --: flags for the `switchyard up` that is started when no --url is given')
    .option('--model <id>', 'model to ask for (default: the one served)')
    .addOption(
      new Option('--concurrency <list>', 'clients at once, one level after the other')
        .argParser(integerList(1, 4096))
        .default([1, 8, 32], '1,8,32'),
    )
    .option(
      '--requests <count>',
      `measured requests a level (default: ${requestsPerClient} a client, at least ${requestsAtLeast})`,
      integerIn(1, 1_000_000),
    )
    .option(
      '--warmup <count>',
      `requests before each level that do not count (default: one a client, at most ${warmupMost})`,
      integerIn(0, 10_000),
    )
    .option('--prompt-tokens <count>', 'length of each prompt', integerIn(1, 1_000_000), 128)
    .option('--output-tokens <count>', 'tokens to generate', integerIn(1, 1_000_000), 64)
    .option('--shared-prefix <count>', 'tokens at the start of each prompt that all share', integerIn(0, 1_000_000), 0)
    .option('--text <file>', 'take prompts from this text, tokenised by the server, instead of random token ids')
    .option('--chat', 'use the chat endpoint (needs --text; prompt lengths are then approximate)')
    .option(
      '--vocab <count>',
      'draw random ids below this (default: the vocabulary where the server tells, else 4096)',
      integerIn(512, 10_000_000),
    )
    .option('--stop-at-eos', 'let answers end by themselves instead of at --output-tokens')
    .option('--temperature <number>', 'sampling temperature', numberIn(0, 2), 0)
    .option('--seed <number>', 'of the prompts', integerIn(0, 2 ** 31), 1)
    .option('--timeout <seconds>', 'longest wait for one request', integerIn(1, 86_400), 600)
    .option('--extra <json>', 'more fields for every request body, as a JSON object')
    .option('--label <text>', 'kept in the report')
    .option('--out <file>', 'also write the JSON report there')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Exits with 1 when any request failed or answered with fewer tokens than asked for, or the server ended; levels that were complete are reported then too.

Examples:
  $ switchyard bench serve
  $ switchyard bench serve --concurrency 1,8 -- --nodes 1 --workers-per-node 1 --numeric bf16
  $ switchyard bench serve --url http://127.0.0.1:8080 --prompt-tokens 512 --output-tokens 16 --json
  $ switchyard bench serve --text models/shunter-16m/held-out/novels.txt --out novels.json`,
    )
    .action(async (upFlags: string[], options: ServeOptions) => {
      checkUpFlags(upFlags, options.url);
      checkOutput(options.out, '--out');
      checkPromptOptions(options);
      checkRequests(options);
      const text = options.text === undefined ? null : readPromptText(options.text);
      const interrupt = interruptSignal();
      const extra = parseExtra(options.extra);
      let cut: Error | null = null;
      const report = await withTargetServer(
        { ...options, upFlags, timeoutMs: options.timeout * 1000, signal: interrupt.signal },
        async ({ client, switchyard, numericClass, cluster, signal, explain }) => {
          const card = await selectModel(client, options.model ?? null, signal);
          checkLengths(options, card);
          const { promptsFor, kind } = await promptMaker(client, card, text, options, signal);
          const progress = startProgress('bench serve');
          const levels: ServeReport['levels'] = [];
          let failure: Error | null = null;
          try {
            await serveBench({
              client,
              model: card.id,
              concurrencies: options.concurrency,
              requestsAt: (c) => requestsAt(options, c),
              warmupAt: (c) => warmupAt(options, c),
              maxTokens: options.outputTokens,
              temperature: options.temperature,
              ignoreEos: !options.stopAtEos,
              extra,
              promptsFor,
              onProgress: progress.update,
              aroundLevel: {
                before: () => cluster.begin(),
                after: async (level) => {
                  // Measured it is, whether or not the server lives to tell its counters.
                  const reported = { ...level, wire: null, time: null };
                  levels.push(reported);
                  Object.assign(reported, await cluster.end(tokensOf(level)));
                },
              },
              signal,
            });
            signal.throwIfAborted();
          } catch (error) {
            // Levels that were complete before the interruption, or the end of the server, are reported.
            if (!interrupt.signal.aborted) failure = await explain(error as Error);
          } finally {
            progress.finish();
          }
          if (levels.length === 0 && failure !== null) throw failure;
          if (levels.length === 0 && interrupt.signal.aborted) throw new CommandFailure('', { status: exitStatus.interrupted });
          cut = failure;
          const workload: ServeWorkload = {
            prompts: kind,
            endpoint: options.chat ? 'chat' : 'completions',
            promptTokens: options.promptTokens,
            sharedPrefixTokens: options.sharedPrefix,
            outputTokens: options.outputTokens,
            temperature: options.temperature,
            ignoreEos: !options.stopAtEos,
            seed: options.seed,
          };
          return {
            format: 'switchyard-bench-serve',
            version: 1,
            createdAt: new Date().toISOString(),
            command: ['switchyard', ...process.argv.slice(2)].join(' '),
            label: options.label ?? null,
            machine: describeMachine(),
            target: { url: client.baseUrl, model: card.id, switchyard, numericClass },
            workload,
            levels,
            // After the last level, too: its counters are missing then.
            interrupted: failure === null && interrupt.signal.aborted,
            failure: failure?.message ?? null,
            errors: levels.reduce((sum, level) => sum + level.errors, 0),
          } satisfies ServeReport;
        },
      );
      interrupt.release();
      const json = `${JSON.stringify(report, null, 2)}\n`;
      print(options.json ? json : formatServeReport(report));
      if (options.out) writeOutputs([{ option: '--out', file: options.out, text: json }]);
      if (cut !== null) throw cut;
      if (report.interrupted) process.exitCode = exitStatus.interrupted;
      else if (report.errors > 0)
        throw new CommandFailure(`${counted(report.errors, 'request')} failed or ${report.errors === 1 ? 'was' : 'were'} answered short`);
    });
  return command;
}

function parseExtra(text: string | undefined): Record<string, unknown> {
  if (text === undefined) return {};
  try {
    const value = JSON.parse(text) as unknown;
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  throw new CommandFailure(`--extra ${text}: it must be a JSON object`, { status: exitStatus.usage });
}

function checkLengths(options: ServeOptions, card: ModelCard): void {
  const context = card.max_model_len;
  const wanted = options.promptTokens + options.outputTokens;
  if (typeof context === 'number' && wanted > context)
    throw new CommandFailure(
      `--prompt-tokens ${options.promptTokens} + --output-tokens ${options.outputTokens} = ${wanted} exceeds the context of ${card.id}: ${context}`,
      { status: exitStatus.usage },
    );
}

function requestsAt(options: ServeOptions, concurrency: number): number {
  return options.requests ?? Math.max(requestsAtLeast, requestsPerClient * concurrency);
}

function warmupAt(options: ServeOptions, concurrency: number): number {
  return options.warmup ?? Math.min(concurrency, warmupMost);
}

/** Prompt and output tokens; null where the server does not tell. */
function tokensOf({ promptTokens, outputTokens }: LevelReport): number | null {
  return promptTokens === null ? null : promptTokens + outputTokens;
}

/** What can be refused before there is a server. */
function checkPromptOptions({ chat, text, vocab, sharedPrefix, promptTokens }: ServeOptions): void {
  const refuse = (message: string) => new CommandFailure(message, { status: exitStatus.usage });
  if (chat && text === undefined) throw refuse('--chat needs --text: a chat message is text');
  if (text !== undefined && vocab !== undefined) throw refuse(`--vocab ${vocab} is for random token ids, --text ${text} takes its own`);
  if (text !== undefined && sharedPrefix > 0)
    throw refuse(`--shared-prefix ${sharedPrefix} is for random token ids: windows of --text ${text} share no beginning`);
  if (sharedPrefix >= promptTokens)
    throw refuse(`--shared-prefix ${sharedPrefix} must be less than --prompt-tokens ${promptTokens}: no two prompts would differ`);
}

/** More clients than requests would stand in the report, and fewer would have been measured. */
function checkRequests({ requests, concurrency }: ServeOptions): void {
  const most = Math.max(...concurrency);
  if (requests === undefined || requests >= most) return;
  throw new CommandFailure(
    `--requests ${requests} a level leaves some of --concurrency ${most} clients without any: give at least as many`,
    {
      status: exitStatus.usage,
    },
  );
}

/** @param places where different windows of `size` begin, both in the unit of `length`; `has` names the latter */
function checkWindows(options: ServeOptions, length: number, size: number, places: number, has: string): void {
  const refuse = (message: string) => new CommandFailure(`--text ${options.text} has ${has}${message}`, { status: exitStatus.usage });
  if (length < size) throw refuse(`, fewer than --prompt-tokens ${options.promptTokens}`);
  const wanted = options.concurrency.reduce((sum, c) => sum + requestsAt(options, c) + warmupAt(options, c), 0);
  if (wanted > places)
    throw refuse(
      `: ${places} different prompts of --prompt-tokens ${options.promptTokens}, fewer than the ${wanted} requests of all levels (--concurrency, --requests, --warmup)`,
    );
}

function readPromptText(file: string): string {
  const text = readText(file, `--text ${file}`);
  if (text === '') throw new CommandFailure(`--text ${file}: it is empty`, { status: exitStatus.usage });
  return text;
}

type PromptMaker = (level: number) => () => CompletionRequest['prompt'];

/** Every level gets its own seed, so that no level finds the previous one's prompts in a cache. */
async function promptMaker(
  client: ApiClient,
  card: ModelCard,
  text: string | null,
  options: ServeOptions,
  signal: AbortSignal,
): Promise<{ promptsFor: PromptMaker; kind: ServeWorkload['prompts'] }> {
  const { promptTokens, sharedPrefix, seed } = options;
  const levelSeed = (level: number) => seed * 1000 + level;
  if (text === null) {
    const vocab = options.vocab ?? vocabOf(card);
    return {
      promptsFor: (level) => randomIdPrompts(promptTokens, sharedPrefix, vocab, levelSeed(level)),
      kind: 'random ids',
    };
  }
  const used: UsedPlaces = new Set();
  const ids = options.chat ? null : await tokenizeByServer(client, card.id, text, signal);
  if (ids !== null) {
    checkWindows(options, ids.length, promptTokens, windowPlaces(ids.length, promptTokens), `${ids.length} tokens`);
    return { promptsFor: (level) => textIdPrompts(promptTokens, ids, levelSeed(level), used), kind: 'text as ids' };
  }
  const charsPerToken = await charsPerTokenByServer(client, card.id, text, signal);
  const chars = Math.max(1, Math.round(promptTokens * charsPerToken));
  const has = `${text.length} characters, about ${Math.floor(text.length / charsPerToken)} tokens`;
  checkWindows(options, text.length, chars, textPlaces(text, chars), has);
  const windows = (level: number) => textPrompts(chars, text, levelSeed(level), used);
  const messages: PromptMaker = (level) => {
    const nextWindow = windows(level);
    return () => [{ role: 'user', content: nextWindow() }];
  };
  return { promptsFor: options.chat ? messages : windows, kind: 'text' };
}
