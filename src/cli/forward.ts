/** `cmap forward`: arrays through a network, and gradients back: what comparisons with PyTorch go through. */
import { Command, Option } from 'commander';
import { vjp } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { writeNpy } from '../formats/npy.ts';
import { checkWritable } from '../report/files.ts';
import { progress } from '../report/progress.ts';
import {
  addNetworkOptions,
  batchOf,
  batchOption,
  checkImages,
  checkNetwork,
  type Images,
  type LoadedNetwork,
  loadNetwork,
  type NetworkOptions,
  readFloats,
  readImagesNpy,
  writeImagesNpy,
} from './networks.ts';
import {
  addCommonOptions,
  checkDistinct,
  maybeProfiled,
  openDevice,
  parseInteger,
  parseNumber,
} from './options.ts';

interface ForwardOptions extends NetworkOptions {
  readonly input: string;
  readonly output: string;
  readonly sigma?: number;
  readonly time?: number;
  readonly labels?: readonly number[];
  readonly cotangent?: string;
  readonly grad?: string;
  readonly batch?: number;
}

export function forwardCommand(): Command {
  const command = new Command('forward')
    .description('Run a network on an array, and take the gradient of its output.')
    .requiredOption('--input <x.npy>', 'float array (N, C, H, W); in [0, 1] for classifiers')
    .requiredOption('--output <y.npy>', 'where to write: f(x, σ) before clipping, logits, or the noise')
    .option('--sigma <s>', 'noise level of a consistency model', parseNumber)
    .option(
      '--time <t>',
      'time label of a score network: 999·t of DDPM++; of improved-diffusion the step of 1000',
      parseNumber,
    )
    .option('--labels <list>', 'classes for a class-conditional network, such as 3,7', parseLabels)
    .option('--cotangent <c.npy>', 'of the output’s shape, for --grad')
    .addOption(new Option('--grad <g.npy>', 'where to write d⟨y, cotangent⟩/dx'))
    .addOption(batchOption('images'));
  addCommonOptions(addNetworkOptions(command));
  return command.action(async (options: ForwardOptions) => {
    if ((options.cotangent === undefined) !== (options.grad === undefined))
      throw new InputError('--cotangent and --grad belong together: give both, or neither');
    checkDistinct(
      { '--input': options.input, '--cotangent': options.cotangent },
      { '--output': options.output, '--grad': options.grad },
    );
    checkWritable(options.output, options.grad);
    checkNetwork(options);
    const input = readImagesNpy(options.input);
    const cotangent = options.cotangent === undefined ? undefined : readFloats(options.cotangent);
    const device = await openDevice(options);
    const loaded = await loadNetwork(device, options);
    const f = functionOf(loaded, input, options);
    if (cotangent) {
      const [n, h, w] = input.shape;
      const wanted = f.image ? [n, f.channels, h, w] : [n, f.channels];
      if (String(cotangent.shape) !== String(wanted))
        throw new InputError(
          `${options.cotangent}: shape (${cotangent.shape.join(', ')}), the output is (${wanted.join(', ')})`,
        );
    }
    const dy =
      options.cotangent === undefined || !f.image ? cotangent?.data : readImagesNpy(options.cotangent).data;
    const { y, dx } = await maybeProfiled(device, options, () => through(device, f, input, dy, options));
    for (const [values, what] of [
      [y, options.output],
      [dx ?? [], options.grad],
    ] as const) {
      const bad = values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw new InputError(
          `${what}: not written: number ${bad} of ${values.length} would be ${values[bad]}; the input is too large for the network, or of another kind`,
        );
    }
    if (f.image) writeImagesNpy(options.output, y, [...input.shape.slice(0, 3), f.channels]);
    else writeNpy(options.output, { shape: [input.shape[0], f.channels], data: y });
    if (dx && options.grad !== undefined) writeImagesNpy(options.grad, dx, input.shape);
    process.stdout.write(`${options.output}${options.grad === undefined ? '' : ` ${options.grad}`}\n`);
  });
}

function parseLabels(text: string): number[] {
  return text.split(',').map(parseInteger);
}

interface Function {
  /** Images [N, H, W, channels], else [N, channels]. */
  readonly image: boolean;
  readonly channels: number;
  /** @param from the first image of the batch */
  apply(x: Tensor, from: number): Tensor;
}

/** The network as a function of its input alone. @throws InputError when what it needs is not given */
function functionOf(loaded: LoadedNetwork, input: Images, options: ForwardOptions): Function {
  const { sigma, time, labels } = options;
  const [n] = input.shape;
  if (loaded.kind === 'classifier') {
    const { net } = loaded;
    checkImages(options.input, input, net.imageShape, net.architecture.anySize);
    for (const [flag, value] of Object.entries({ '--sigma': sigma, '--time': time, '--labels': labels })) {
      if (value !== undefined) throw new InputError(`${flag} has no meaning for a classifier`);
    }
    const outside = input.data.findIndex((value) => value < -1e-3 || value > 1 + 1e-3);
    if (outside >= 0)
      process.stderr.write(
        `warning: ${options.input} holds ${input.data[outside]}; classifiers take images in [0, 1] and normalise inside\n`,
      );
    return { image: false, channels: net.classes, apply: (x) => net.logits(x) };
  }
  const { unet } = loaded.net;
  checkImages(options.input, input, unet.imageShape);
  if (unet.classes > 0 && labels?.length !== n)
    throw new InputError(
      `--labels: ${labels?.length ?? 0} classes for ${n} images; the network is class-conditional (0 to ${unet.classes - 1})`,
    );
  if (unet.classes === 0 && labels) throw new InputError('--labels: the network is not class-conditional');
  const some = (x: Tensor, from: number) => labels?.slice(from, from + (x.shape[0] as number));
  if (loaded.kind === 'score') {
    if (time === undefined) throw new InputError('--time is missing: the time label of the score network');
    return {
      image: true,
      channels: unet.outChannels,
      apply: (x, from) => loaded.net.predict(x, time, some(x, from)),
    };
  }
  if (sigma === undefined) throw new InputError('--sigma is missing: the noise level, such as 80 or 0.1395');
  if (!(sigma > 0)) throw new InputError(`--sigma must be positive, got ${sigma}`);
  return {
    image: true,
    channels: unet.outChannels,
    apply: (x, from) => loaded.net.denoise(x, sigma, some(x, from)),
  };
}

/** Batch by batch, each a Program, whose memory is planned. */
async function through(
  device: Device,
  f: Function,
  input: Images,
  cotangent: Float32Array | undefined,
  options: ForwardOptions,
): Promise<{ y: Float32Array; dx: Float32Array | null }> {
  const [n, h, w, c] = input.shape;
  const batch = batchOf(options, Math.max(1, Math.min(64, Math.floor((8 * 64 * 64) / (h * w)))));
  const outSize = f.image ? h * w * f.channels : f.channels;
  const inSize = h * w * c;
  const y = new Float32Array(n * outSize);
  const dx = cotangent ? new Float32Array(n * inSize) : null;
  const bar = progress('forward', n, { quiet: options.quiet });
  for (let from = 0; from < n; from += batch) {
    const count = Math.min(batch, n - from);
    const x = device.tensor(input.data.subarray(from * inSize, (from + count) * inSize), [count, h, w, c]);
    const dy = cotangent
      ? device.tensor(
          cotangent.subarray(from * outSize, (from + count) * outSize),
          f.image ? [count, h, w, f.channels] : [count, f.channels],
        )
      : null;
    const program = device.record('forward', () => {
      if (!dy) return { output: f.apply(x, from), gradient: null };
      const { output, pullback } = vjp((u) => f.apply(u, from), [x]);
      return { output, gradient: pullback(dy)[0] as Tensor };
    });
    try {
      await program.prepare((done, total) => bar.update(from, `compile ${done}/${total}`));
      const { output, gradient } = program.run();
      y.set(await output.floats(), from * outSize);
      if (gradient) dx?.set(await gradient.floats(), from * inSize);
    } finally {
      program.dispose();
    }
    x.dispose();
    dy?.dispose();
    bar.update(from + count);
  }
  bar.stop();
  return { y, dx };
}
