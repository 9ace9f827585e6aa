/** `cmap tune`: times the variants of the heavy kernels at a network's shapes, and keeps the fastest. */
import { Command } from 'commander';
import { vjp } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { problemsOf, type Tuned, tune } from '../kernels/tune.ts';
import { loadClassifier, loadConsistencyModel, loadPreset, shippedNetwork } from '../models.ts';
import { progress } from '../report/progress.ts';
import { formatTable } from '../report/table.ts';
import { saveTuning, tuningPath } from '../tuning.ts';
import {
  addNetworkOptions,
  batchOption,
  type LoadedNetwork,
  loadNetwork,
  type NetworkOptions,
} from './networks.ts';
import { addCommonOptions, openDevice, parseNumber } from './options.ts';

interface TuneOptions extends NetworkOptions {
  readonly batch?: number;
  readonly budget: number;
  readonly out?: string;
}

export function tuneCommand(): Command {
  const command = new Command('tune')
    .description(
      'Time kernel variants at a network’s shapes and keep the fastest for this adapter; without --net and --weights at those of the shipped models.',
    )
    .option('--budget <seconds>', 'for each shape, first runs not counted', parseNumber, 1)
    .option('--out <file.json>', 'the table; default where the other commands look')
    .addOption(batchOption('images of a forward pass'));
  addCommonOptions(addNetworkOptions(command));
  return command.action(async (options: TuneOptions) => {
    if (!(options.budget > 0)) throw new InputError(`--budget must be positive, got ${options.budget}`);
    if (options.batch !== undefined && options.batch < 1)
      throw new InputError(`--batch must be at least 1, got ${options.batch}`);
    const device = await openDevice(options);
    const problems = new Map(
      (await functions(device, options))
        .flatMap((f) => problemsOf(device, f))
        .map((p) => [JSON.stringify(p), p]),
    );
    const path = options.out ?? tuningPath(device);
    const bar = progress('tune', problems.size, { quiet: options.quiet });
    // Saved as it goes: an interruption loses the shape in hand.
    const results = await tune(device, [...problems.values()], {
      seconds: options.budget,
      onProblem: (done, _, last) => {
        if (last) saveTuning(device, [last], path);
        bar.update(done);
      },
    });
    bar.stop();
    print(results, path);
  });
}

/** Forward and input gradient of what is tuned for. */
async function functions(device: Device, options: TuneOptions): Promise<(() => unknown)[]> {
  const gradient = (f: (x: Tensor) => Tensor, shape: readonly number[]) => () => {
    const { output, pullback } = vjp(f, [device.zeros(shape)]);
    return [output, ...pullback()];
  };
  if (options.weights === undefined && options.net === undefined) {
    return ['fashion-mnist', 'cifar10'].flatMap((dataset) => {
      const { cmap } = loadPreset(dataset);
      const { net: model } = loadConsistencyModel(device, shippedNetwork(dataset, 'generator'));
      const { net: classifier } = loadClassifier(device, shippedNetwork(dataset, 'classifier'));
      const batch = options.batch ?? 16 * cmap.k;
      model.prepare(model.sigmas.max);
      return [
        gradient((z) => model.generate(z), [batch, ...model.imageShape]),
        gradient((x) => classifier.logits(x), [batch, ...classifier.imageShape]),
      ];
    });
  }
  const loaded: LoadedNetwork = await loadNetwork(device, options);
  const { net } = loaded;
  const shape = [options.batch ?? 10, ...net.imageShape];
  switch (loaded.kind) {
    case 'classifier':
      return [gradient((x) => loaded.net.logits(x), shape)];
    case 'score':
      return [gradient((x) => loaded.net.predict(x, 500), shape)];
    case 'consistency':
      loaded.net.prepare(loaded.net.sigmas.max);
      return [gradient((x) => loaded.net.generate(x), shape)];
  }
}

function print(results: readonly Tuned[], path: string): void {
  const time = (ms: number | null | undefined) => (ms == null ? 'wrong' : ms.toPrecision(3));
  const rows = results.map(({ problem, choice, milliseconds }) => {
    const { op, ...sizes } = problem;
    const text = Object.entries(sizes).map(([name, value]) => `${name} ${value}`);
    const best = milliseconds[choice] as number;
    return [
      String(op),
      text.join(' '),
      choice,
      time(best),
      time(milliseconds.static),
      ((milliseconds.static as number) / best).toFixed(2),
    ];
  });
  process.stdout.write(
    `${formatTable(['operation', 'sizes', 'choice', 'ms', 'static ms', 'gain'], rows)}\n\n${path}: ${results.filter((r) => r.choice !== 'static').length} of ${results.length} shapes differ from the static choice\n`,
  );
}
