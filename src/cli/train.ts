/** `cmap train PRESET [KEY=VALUE…]`: networks trained on the project's own engine. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { imageFromFloats } from '../formats/image.ts';
import { chartToPng, lineChart } from '../report/chart.ts';
import { writeFileAtomic } from '../report/files.ts';
import { gridToPng } from '../report/grid.ts';
import { formatDuration, type Progress, progress } from '../report/progress.ts';
import { formatProportion } from '../report/statistics.ts';
import { checkFiles, configure, presets, type TrainConfig } from '../train/config.ts';
import { loadTrainingData } from '../train/data.ts';
import { files, type LogEntry, type TrainHooks, train } from '../train/loop.ts';
import { type Look, networkOf } from '../train/session.ts';
import { addCommonOptions, type CommonOptions, maybeProfiled, openDevice } from './options.ts';

interface TrainOptions extends CommonOptions {
  readonly out?: string;
  readonly resume?: boolean;
  readonly show?: boolean;
}

export function trainCommand(): Command {
  const command = new Command('train')
    .description('Train a denoiser, a consistency model or a classifier.')
    .argument('<preset>', Object.keys(presets).join(', '))
    .argument('[settings...]', 'KEY=VALUE, such as steps=2000 lr=1e-3 net_config.nf=32')
    .option('--out <dir>', 'where to write; default out/train/PRESET')
    .option('--resume', 'go on from the checkpoint in --out, bit for bit')
    .option('--show', 'print the whole configuration and stop')
    .addHelpText(
      'after',
      '\nCtrl-C saves a checkpoint and stops. All settings: docs/training.md, or --show.',
    );
  return addCommonOptions(command).action(run);
}

async function run(preset: string, settings: string[], options: TrainOptions): Promise<void> {
  const config = configure(preset, settings);
  if (options.show) {
    process.stdout.write(`${JSON.stringify(config, null, 1)}\n`);
    return;
  }
  const out = options.out ?? join('out', 'train', preset);
  // What cannot be trained is said before the data are read.
  checkFiles(config);
  const net = networkOf(config);
  const [side] = net.kind === 'classifier' ? net.architecture.imageShape : net.unet.imageShape;
  const data = await loadTrainingData(config, side);
  const device = await openDevice(options);

  const stop = new AbortController();
  const interrupt = () => {
    if (stop.signal.aborted) process.exit(130);
    process.stderr.write('\nstopping after the updates in flight; Ctrl-C again to leave at once\n');
    stop.abort();
  };
  process.on('SIGINT', interrupt);
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
      await writeLook(out, step, look, preset);
      await writeLosses(out, preset, config);
    },
  };
  try {
    const result = await maybeProfiled(device, options, () =>
      train(device, config, data, { out, resume: options.resume ?? false }, hooks),
    );
    (bar as Progress | null)?.stop();
    const { steps, interrupted, loss, seconds, imagesPerSecond } = result;
    const time = `${formatDuration(1000 * seconds)}, ${imagesPerSecond.toPrecision(3)} images/s, ${device.adapter.name}`;
    process.stdout.write(`${steps} of ${config.steps} updates, last loss ${loss.toPrecision(4)}; ${time}\n`);
    const look = last as Look | null;
    if (look?.kind === 'accuracy')
      process.stdout.write(
        `${data.test ? 'held-out' : 'training'} images right: ${formatProportion(look.right, look.count)} of ${look.count}\n`,
      );
    const again = `${join(out, files.checkpoint)} (go on with --resume)`;
    process.stdout.write(`${interrupted ? again : join(out, files.result)}\n`);
    if (interrupted) process.exitCode = 130;
  } finally {
    (bar as Progress | null)?.stop();
    process.off('SIGINT', interrupt);
  }
}

/** Samples as samples-STEP.png; a classifier's score as a line of accuracy.jsonl. */
async function writeLook(out: string, step: number, look: Look, preset: string): Promise<void> {
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
    title: preset,
    subtitle: `samples after ${step} updates`,
    columns: headings,
    rows,
  });
  writeFileAtomic(join(out, `samples-${String(step).padStart(7, '0')}.png`), png);
}

/** The loss curve so far, smoothed into at most 400 points, each the mean of its updates. */
async function writeLosses(out: string, preset: string, config: TrainConfig): Promise<void> {
  const lines = readFileSync(join(out, files.log), 'utf8').trimEnd().split('\n');
  const entries = lines.filter((line) => line !== '').map((line) => JSON.parse(line) as LogEntry);
  if (entries.length === 0) return;
  const width = Math.ceil(entries.length / 400);
  const points = Array.from({ length: Math.ceil(entries.length / width) }, (_, i) =>
    entries.slice(i * width, (i + 1) * width),
  );
  const mean = (of: readonly LogEntry[], key: string) =>
    of.reduce((sum, entry) => sum + (entry[key] as number), 0) / of.length;
  const x = points.map((p) => p.at(-1)?.step as number);
  const panel = (title: string, key: string) => ({
    title,
    xLabel: 'update',
    yScale: 'log' as const,
    series: [{ name: key, x, y: points.map((p) => mean(p, key)) }],
  });
  const chart = {
    title: preset,
    subtitle: `${config.task}, batch ${config.batch}, ${config.optimiser}, lr ${config.lr}${width > 1 ? `; means of ${width} updates` : ''}`,
    panels: [panel('Loss', 'loss'), panel('Norm of the gradient', 'norm')],
  };
  writeFileAtomic(join(out, 'loss.svg'), lineChart(chart));
  writeFileAtomic(join(out, 'loss.png'), await chartToPng(chart));
}
