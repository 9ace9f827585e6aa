/** `cmap train PRESET|--config FILE|--resume [KEY=VALUE…]`: networks trained on the project's own engine. */
import { basename, join, resolve } from 'node:path';
import { Command } from 'commander';
import { InputError } from '../engine/errors.ts';
import { imageFromFloats } from '../formats/image.ts';
import { chartToPng, lineChart } from '../report/chart.ts';
import { writeFileAtomic } from '../report/files.ts';
import { gridToPng } from '../report/grid.ts';
import { formatDuration, type Progress, progress } from '../report/progress.ts';
import { formatProportion } from '../report/statistics.ts';
import { continued, type SavedRun } from '../train/checkpoint.ts';
import {
  adjusted,
  checkFiles,
  configure,
  configureFrom,
  presets,
  spread,
  type TrainConfig,
} from '../train/config.ts';
import { loadTrainingData } from '../train/data.ts';
import {
  checkUnused,
  files,
  isFinished,
  type LogEntry,
  readLosses,
  resumed,
  type TrainHooks,
  train,
} from '../train/loop.ts';
import { type Look, networkOf } from '../train/session.ts';
import { addCommonOptions, type CommonOptions, maybeProfiled, openDevice } from './options.ts';

interface TrainOptions extends CommonOptions {
  readonly config?: string;
  readonly out?: string;
  readonly resume?: boolean;
  readonly show?: boolean;
}

export function trainCommand(): Command {
  const command = new Command('train')
    .description('Train a denoiser, a consistency model or a classifier.')
    .usage('[preset] [KEY=VALUE...] [options]')
    .argument('[words...]', 'a preset, and settings such as steps=2000 lr=1e-3 net_config.nf=32')
    .option('--config <file>', 'settings as JSON, such as a run’s config.json, instead of a preset')
    .option('--out <dir>', 'where to write; default out/train/PRESET')
    .option('--resume', 'go on from the checkpoint in --out, bit for bit, with its settings')
    .option('--show', 'print the whole configuration and stop')
    .addHelpText(
      'after',
      `\nPresets: ${Object.keys(presets).join(', ')}.\nCtrl-C saves a checkpoint and stops. All settings: docs/training.md, or --show.`,
    );
  return addCommonOptions(command).action(run);
}

interface Plan {
  readonly config: TrainConfig;
  readonly out: string;
  /** Where a run goes on. */
  readonly saved: SavedRun | null;
}

/** @throws InputError */
function planOf(words: readonly string[], { config: file, resume, out: given }: TrainOptions): Plan {
  const preset = words[0]?.includes('=') ? undefined : words[0];
  const settings = words.slice(preset === undefined ? 0 : 1);
  if (preset !== undefined && file !== undefined)
    throw new InputError(`train: ${preset} and --config ${file} are two beginnings; give one of them`);
  const out = given ?? (preset === undefined ? undefined : join('out', 'train', preset));
  const placed = (): string => {
    if (out === undefined) throw new InputError('train: --out DIR is wanted where there is no preset');
    return out;
  };
  if (!resume) {
    if (preset !== undefined) return { config: configure(preset, settings), out: placed(), saved: null };
    if (file !== undefined) return { config: configureFrom(file, settings), out: placed(), saved: null };
    throw new InputError(
      `train: give a preset, --config FILE or --resume; presets are ${Object.keys(presets).join(', ')}`,
    );
  }
  if (file !== undefined)
    throw new InputError(`train: --resume takes the settings of the checkpoint; leave out --config ${file}`);
  const usual = preset === undefined ? null : configure(preset, []);
  const saved = resumed(placed());
  const config = adjusted(saved.config, settings);
  for (const key of ['task', 'dataset', 'net'] as const)
    if (usual && usual[key] !== saved.config[key] && !settings.some((s) => s.startsWith(`${key}=`)))
      throw new InputError(
        `${out}: holds a run of ${key}=${saved.config[key]}, ${preset} has ${key}=${usual[key]}; leave out ${preset}, or choose another --out`,
      );
  continued(join(placed(), files.checkpoint), saved, config);
  return { config, out: placed(), saved };
}

async function run(words: string[], options: TrainOptions): Promise<void> {
  const { config, out, saved } = planOf(words, options);
  if (options.show) {
    process.stdout.write(`${JSON.stringify(config, null, 1)}\n`);
    return;
  }
  if (saved && isFinished(out, saved, config)) {
    const spreads = spread(config);
    const on = spreads
      ? `${spreads} ends there: begin anew with init=${join(out, files.result)}`
      : `go on with --resume steps=M, M above ${saved.step}`;
    process.stdout.write(`${out}: is finished: ${saved.step} of ${config.steps} updates are made; ${on}\n`);
    return;
  }
  // What cannot be done is said before the data are read.
  if (!saved) checkUnused(out);
  checkFiles(config);
  const net = networkOf(config);
  const [side] = net.kind === 'classifier' ? net.architecture.imageShape : net.unet.imageShape;
  const data = await loadTrainingData(config, side);
  const device = await openDevice(options);
  const title = basename(resolve(out));

  const stop = new AbortController();
  const interrupt = () => {
    if (stop.signal.aborted) process.exit(130);
    process.stderr.write('\nstopping after the updates in flight; Ctrl-C again to leave at once\n');
    stop.abort();
  };
  // Schedulers send SIGTERM some time before they kill.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, interrupt);
  let bar: Progress | null = null;
  let note = '';
  let last: Look | null = null;
  const hooks: TrainHooks = {
    signal: stop.signal,
    onStep: (done, total) => {
      bar ??= progress('train', total, { quiet: options.quiet });
      bar.update(done, note);
    },
    onLog: (entries, rate) => {
      const mean = entries.reduce((sum, { loss }) => sum + loss, 0) / entries.length;
      note = `loss ${mean.toPrecision(4)}, ${rate.toPrecision(3)} images/s`;
    },
    onLook: async (step, look) => {
      last = look;
      await writeLook(out, step, look, title);
    },
    onCheckpoint: () => writeLosses(out, title, config),
    onNotice: (text) => process.stderr.write(`train: ${text}\n`),
  };
  try {
    const result = await maybeProfiled(device, options, () =>
      train(device, config, data, { out, resume: options.resume ?? false }, hooks),
    );
    (bar as Progress | null)?.stop();
    const { steps, interrupted, loss, seconds, imagesPerSecond, waited } = result;
    const time = `${formatDuration(1000 * seconds)}, ${imagesPerSecond.toPrecision(3)} images/s, ${device.adapter.name}`;
    const lost = Number.isFinite(loss) ? `, last loss ${loss.toPrecision(4)}` : '';
    const share = waited / seconds;
    // Less than that nobody could win back.
    const idle = share > 0.02 ? `, ${Math.round(100 * share)} % of it waiting for batches` : '';
    process.stdout.write(`${steps} of ${config.steps} updates${lost}; ${time}${idle}\n`);
    const look = last as Look | null;
    if (look?.kind === 'accuracy')
      process.stdout.write(
        `${data.test ? 'held-out' : 'training'} images right: ${formatProportion(look.right, look.count)} of ${look.count}\n`,
      );
    const again = `${join(out, files.checkpoint)} (go on with --resume)`;
    process.stdout.write(`${interrupted ? again : join(out, files.result)}\n`);
    if (interrupted) process.exitCode = 130;
  } catch (error) {
    // How it went until then, where it began.
    if (note !== '') await writeLosses(out, title, config).catch(() => {});
    throw error;
  } finally {
    (bar as Progress | null)?.stop();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupt);
  }
}

/** Samples as samples-STEP.png; a classifier's score as accuracy.json. */
async function writeLook(out: string, step: number, look: Look, title: string): Promise<void> {
  if (look.kind === 'accuracy') {
    const path = join(out, 'accuracy.json');
    writeFileAtomic(path, `${JSON.stringify({ step, right: look.right, count: look.count })}\n`);
    return;
  }
  const [n, height, width, channels] = look.shape;
  const size = height * width * channels;
  const cell = (i: number) => ({
    image: imageFromFloats(look.images.subarray(i * size, (i + 1) * size), height, width, channels as 1 | 3),
  });
  const columns = 8;
  const headings = new Array<string>(columns).fill('');
  const rows = Array.from({ length: Math.ceil(n / columns) }, (_, r) => ({
    cells: Array.from({ length: Math.min(columns, n - r * columns) }, (_, c) => cell(r * columns + c)),
  }));
  const png = await gridToPng({
    title,
    subtitle: `samples after ${step} updates`,
    columns: headings,
    rows,
  });
  writeFileAtomic(join(out, `samples-${String(step).padStart(7, '0')}.png`), png);
}

/** The loss curve so far, smoothed into at most 400 points, each the mean of its updates. */
async function writeLosses(out: string, title: string, config: TrainConfig): Promise<void> {
  const entries = readLosses(out);
  if (entries.length === 0) return;
  const width = Math.ceil(entries.length / 400);
  const points = Array.from({ length: Math.ceil(entries.length / width) }, (_, i) =>
    entries.slice(i * width, (i + 1) * width),
  );
  const mean = (of: readonly LogEntry[], key: string) =>
    of.reduce((sum, entry) => sum + (entry[key] as number), 0) / of.length;
  const x = points.map((p) => p.at(-1)?.step as number);
  const panel = (heading: string, key: string) => ({
    title: heading,
    xLabel: 'update',
    yScale: 'log' as const,
    series: [{ name: key, x, y: points.map((p) => mean(p, key)) }],
  });
  const chart = {
    title,
    subtitle: `${config.task}, batch ${config.batch}, ${config.optimiser}, lr ${config.lr}${width > 1 ? `; means of ${width} updates` : ''}`,
    panels: [panel('Loss', 'loss'), panel('Norm of the gradient', 'norm')],
  };
  writeFileAtomic(join(out, 'loss.svg'), lineChart(chart));
  writeFileAtomic(join(out, 'loss.png'), await chartToPng(chart));
}
