import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisesSameBits } from '@switchyard/proto';
import { Command } from 'commander';
import { parseBaseUrl } from '../api/client.ts';
import { preferModel, selectModel } from '../api/models.ts';
import type { UpReport } from '../cluster/up-report.ts';
import type { Observation, Question } from '../exact/observation.ts';
import { scatteredPlan } from '../exact/plan-variants.ts';
import { makeQuestions } from '../exact/questions.ts';
import type { ExactReport } from '../exact/report.ts';
import { formatExactReport, isExact } from '../exact/report.ts';
import type { ExactBench, ScenarioResult } from '../exact/scenarios.ts';
import { notCompared, observeAlone, runElsewhere, runScenario, scenarios } from '../exact/scenarios.ts';
import { CommandFailure, failureOf } from '../failure.ts';
import { describeMachine } from '../load/machine.ts';
import { vocabOf } from '../load/prompts.ts';
import { collect, integerIn, numberIn } from '../terminal/option-values.ts';
import { checkOutput, writeOutputs } from '../terminal/output-file.ts';
import { type Progress, startProgress } from '../terminal/progress.ts';
import { print } from '../terminal/visible.ts';
import type { TargetOptions } from './bench-target.ts';
import { withTargetServer } from './bench-target.ts';
import { boundToItsWorkers, checkUpFlags } from './bench-up-flags.ts';
import { interruptSignal } from './interrupt.ts';
import { withServerOptions } from './server-options.ts';

interface ExactOptions {
  url?: string;
  also?: string[];
  apiKeyFile?: string;
  model?: string;
  questions: number;
  tokens: number;
  others: number;
  temperature: number;
  elsewhere: boolean;
  strict?: boolean;
  timeout: number;
  label?: string;
  out?: string;
  json?: boolean;
}

/** Alternatives asked for beside each token; vLLM allows this many by default. */
const topLogprobs = 5;

export function benchExactCommand(): Command {
  const command = new Command('exact').description(
    'Ask the same under other circumstances and compare every bit: alone, in a crowd, streamed, elsewhere',
  );
  withServerOptions(command)
    .argument('[up-flags...]', 'after --: flags for the `switchyard up` that is started when no --url is given')
    .option('--model <id>', 'model to ask for (default: the one served)')
    .option('--also <url>', 'compare with the answers of this server too, which should be the same model (repeatable)', collect)
    .option('--questions <count>', 'prompts to compare', integerIn(1, 1000), 8)
    .option('--tokens <count>', 'tokens to generate for each', integerIn(2, 100_000), 32)
    .option('--others <count>', 'clients that keep the server busy where a row says so', integerIn(1, 1000), 16)
    .option('--temperature <number>', 'above 0: sampled, with a seed per question', numberIn(0, 2), 0)
    .option('--no-elsewhere', 'do not start servers with other plans, workers and transports')
    .option('--strict', 'exit with 1 on a difference even if the server is not a Switchyard')
    .option('--timeout <seconds>', 'longest wait for one request', integerIn(1, 86_400), 600)
    .option('--label <text>', 'kept in the report')
    .option('--out <file>', 'also write the JSON report there')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Without --url a server is started (two nodes of two workers, or as the flags after -- say), then others with other numbers of workers,
a scattered plan with replicas, and other transports.

Examples:
  $ switchyard bench exact
  $ switchyard bench exact --temperature 0.8 -- --numeric f32
  $ switchyard bench exact --url http://127.0.0.1:8080 --json
  $ switchyard bench exact --url http://old:8080 --also http://new:8080`,
    )
    .action(async (upFlags: string[], options: ExactOptions) => {
      checkUpFlags(upFlags, options.url);
      checkOutput(options.out, '--out');
      for (const url of options.also ?? []) parseBaseUrl(url, '--also');
      const interrupt = interruptSignal();
      const target: TargetOptions = { ...options, upFlags, timeoutMs: options.timeout * 1000, signal: interrupt.signal };
      const { report, started, asked, failure: failureHere } = await compareHere(target, options);
      const failure = failureHere ?? (await failureOf(() => compareOthers(target, options, started, asked, report.results)));
      interrupt.release();
      // What was measured until then is kept, under the name of something unfinished.
      if (failure !== null) report.incomplete = interrupt.signal.aborted ? 'interrupted' : failure.message;
      report.exact = report.incomplete === null && isExact(report.results);
      const json = `${JSON.stringify(report, null, 2)}\n`;
      print(options.json ? json : formatExactReport(report));
      if (options.out) writeOutputs([{ option: '--out', file: options.out, text: json }]);
      if (failure !== null) throw failure;
      if (!report.exact && ((report.target.switchyard && report.promised) || options.strict))
        throw new CommandFailure('answers are not the same bits');
    });
  return command;
}

interface Asked {
  /** Here; elsewhere it may have another name. */
  model: string;
  questions: Question[];
  others: Question[];
  reference: Observation[];
}

/** @throws what went wrong before there was anything to compare with */
async function compareHere(
  target: TargetOptions,
  options: ExactOptions,
): Promise<{ asked: Asked; report: ExactReport; started: UpReport | null; failure: Error | null }> {
  return await withTargetServer(target, async ({ client, switchyard, numericClass, started, signal, explain }) => {
    const card = await selectModel(client, options.model ?? null, signal);
    // The status is the operator's; what a model is, it tells everybody.
    const named = numericClass ?? card.numeric_class ?? null;
    const { questions, others } = await makeQuestions(
      client,
      {
        model: card.id,
        vocab: vocabOf(card),
        count: options.questions,
        others: options.others,
        maxTokens: options.tokens,
        temperature: options.temperature,
        topLogprobs,
      },
      signal,
    );
    const bench: ExactBench = { client, questions, others, signal };
    const progress = startProgress('bench exact');
    const results: ScenarioResult[] = [];
    const { reference, failure: seen } = await askInEveryWay(bench, results, progress).finally(progress.finish);
    const failure = seen && (await explain(seen));
    const report: ExactReport = {
      format: 'switchyard-bench-exact',
      version: 1,
      createdAt: new Date().toISOString(),
      command: ['switchyard', ...process.argv.slice(2)].join(' '),
      label: options.label ?? null,
      machine: describeMachine(),
      target: { url: client.baseUrl, model: card.id, switchyard, numericClass: named },
      promised: named === null || promisesSameBits(named),
      questions: questions.length,
      tokensPerQuestion: options.tokens,
      others: others.length,
      temperature: options.temperature,
      results,
      incomplete: null,
      exact: false,
    };
    return { asked: { model: card.id, questions, others, reference }, report, started, failure };
  });
}

async function askInEveryWay(
  bench: ExactBench,
  results: ScenarioResult[],
  progress: Progress,
): Promise<{ reference: Observation[]; failure: Error | null }> {
  progress.update(0, scenarios.length + 1, 'alone');
  const reference = await observeAlone(bench);
  const failure = await failureOf(async () => {
    for (const [index, scenario] of scenarios.entries()) {
      progress.update(index + 1, scenarios.length + 1, scenario.name);
      results.push(await runScenario(scenario, bench, reference));
    }
  });
  return { reference, failure };
}

/** Servers that run already, and ones that are started for it. Adds to `results` as it goes. */
async function compareOthers(
  target: TargetOptions,
  options: ExactOptions,
  started: UpReport | null,
  asked: Asked,
  results: ScenarioResult[],
): Promise<void> {
  for (const url of options.also ?? []) results.push(...(await compareAlso(url, target, asked)));
  if (started && options.elsewhere) await compareElsewhere(target, started, asked, results);
}

/** The same questions to a server that runs already, perhaps under another name for the model. */
async function compareAlso(url: string, target: TargetOptions, asked: Asked): Promise<ScenarioResult[]> {
  return await withTargetServer({ ...target, url, upFlags: [] }, async ({ client, signal }) => {
    const { id } = await preferModel(client, asked.model, signal);
    const named = (questions: Question[]) => questions.map((question) => ({ ...question, model: id }));
    const bench: ExactBench = { client, questions: named(asked.questions), others: named(asked.others), signal };
    return await runElsewhere(client.baseUrl, bench, asked.reference);
  });
}

/** The same questions on other clusters of the same model: each is started, asked and stopped in turn. Adds to `results` as it goes. */
async function compareElsewhere(target: TargetOptions, started: UpReport, asked: Asked, results: ScenarioResult[]): Promise<void> {
  const bound = boundToItsWorkers(target.upFlags);
  if (bound !== null) {
    process.stderr.write(`bench exact: no other servers are started: ${bound}\n`);
    results.push(notCompared('elsewhere', bound));
    return;
  }
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-exact-'));
  const planFile = path.join(folder, 'scattered.json');
  writeFileSync(planFile, JSON.stringify(scatteredPlan(started.planModel, 3, 1, 1)));
  const places = [
    { name: '1 worker, no guesses', flags: ['--nodes', '1', '--workers-per-node', '1', '--draft-max', '0'] },
    { name: '3 nodes, scattered plan', flags: ['--nodes', '3', '--workers-per-node', '1', '--plan', planFile] },
    { name: '5 workers over tcp', flags: ['--nodes', '1', '--workers-per-node', '5', '--transport', 'tcp'] },
    { name: '2 workers over grpc', flags: ['--nodes', '2', '--workers-per-node', '1', '--transport', 'grpc'] },
  ];
  try {
    for (const place of places) {
      process.stderr.write(`bench exact: ${place.name}\n`);
      const there = { ...target, upFlags: [...target.upFlags, ...place.flags] };
      results.push(
        ...(await withTargetServer(there, ({ client, signal }) =>
          runElsewhere(place.name, { client, questions: asked.questions, others: asked.others, signal }, asked.reference),
        )),
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
