/** A run put together from its configuration: network, parameters, recipe, step, and what is looked at on the way. */
import { spread } from '../data/subset.ts';
import { noGrad } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { purposes, randomNormal } from '../engine/random.ts';
import { openCheckpoint } from '../formats/checkpoint.ts';
import { add, sub } from '../kernels/broadcast.ts';
import { affine, clamp } from '../kernels/elementwise.ts';
import { argmax } from '../kernels/reduce.ts';
import { ClassifierNet, checkNormalisation } from '../nets/classifier.ts';
import {
  ConsistencyModel,
  karrasLevels,
  type Sigmas,
  sigmaNamesOf,
  sigmaSettings,
  sigmasAfter,
} from '../nets/consistency.ts';
import { Lpips } from '../nets/lpips.ts';
import { type ParameterShapes, type Parameters, type TensorSource, trainedWith } from '../nets/parameters.ts';
import type { Recompute } from '../nets/recompute.ts';
import { type Network, network } from '../nets/registry.ts';
import { augmentLabels } from './augment.ts';
import type { ImageSet } from './batches.ts';
import { ClassifierRecipe } from './classifier.ts';
import type { TrainConfig } from './config.ts';
import { ConsistencyRecipe, type ConsistencyTraining } from './consistency.ts';
import { decodeFiles, type TrainingData } from './data.ts';
import { EdmRecipe } from './edm.ts';
import { initialWeights } from './initial.ts';
import { BatchWorkers } from './prefetch.ts';
import type { Recipe } from './recipe.ts';
import { TrainingStep } from './step.ts';
import { ParameterStore } from './store.ts';

/** Images that a generator made, in [0, 1], or a classifier's score. */
export type Look =
  | {
      readonly kind: 'samples';
      readonly images: Float32Array;
      readonly shape: readonly [number, number, number, number];
    }
  | { readonly kind: 'accuracy'; readonly right: number; readonly count: number };

/** Samples of a grid, and test images between two checkpoints. */
const sampled = 16;
const tested = 1000;

/** Settings of the network that other commands need to know: those given, the classes of the data, what augmentation adds. */
export function netConfigOf(config: TrainConfig, classes?: number): Record<string, unknown> {
  const { net, net_config, task, augment } = config;
  if (task === 'classifier') return classes ? { num_classes: classes, ...net_config } : net_config;
  return {
    ...net_config,
    ...sigmaSettings(net, sigmasOf(config)),
    ...(augment > 0 ? { augment_dim: augmentLabels } : {}),
  };
}

/** The network of a configuration. @throws InputError when it cannot be built, or not be trained as the configuration says */
export function networkOf(config: TrainConfig, classes?: number): Network {
  const { net, task } = config;
  for (const which of ['min', 'max', 'data'] as const) {
    const name = sigmaNamesOf(net)[which];
    if (task !== 'classifier' && name in config.net_config)
      throw new InputError(`train: net_config.${name} is what sigma_${which} sets; set that`);
  }
  const plain = config.augment > 0 ? network(net, config.net_config) : null;
  if (plain && !(plain.kind !== 'classifier' && plain.unet.family === 'ncsnpp'))
    throw new InputError(`train: augment is built for NCSN++, not ${net}; set augment=0`);
  const found = network(net, netConfigOf(config, classes));
  if (found.kind === 'score')
    throw new InputError(
      `train: ${net} predicts noise at times of its own, which training does not; take net=ncsnpp or adm with its settings`,
    );
  if ((found.kind === 'classifier') !== (task === 'classifier'))
    throw new InputError(`train: task ${task} does not train ${net}, a ${found.kind} network`);
  const { fourier_scale: scale } = config.net_config;
  if (scale !== undefined && !(typeof scale === 'number' && scale > 0))
    throw new InputError(`train: net_config.fourier_scale must be above 0, got ${JSON.stringify(scale)}`);
  if (found.kind === 'classifier') {
    if (config.dropout > 0 && !found.architecture.dropout)
      throw new InputError(`train: ${net} has no place for dropout, only WideResNets; set dropout=0`);
    if (config.recompute && !found.architecture.recompute)
      throw new InputError(`train: ${net} has no blocks to recompute; set recompute=false`);
  } else if (found.unet.outChannels !== found.unet.imageShape[2] || found.unet.classes > 0)
    throw new InputError(
      `train: ${net} is class-conditional or predicts a variance; training is built for neither`,
    );
  return found;
}

export class Session {
  private constructor(
    readonly device: Device,
    readonly config: TrainConfig,
    readonly net: Network,
    readonly data: TrainingData,
    readonly store: ParameterStore,
    readonly batches: BatchWorkers,
    readonly recipe: Recipe,
    readonly step: TrainingStep,
    /** What was made for it, in this order. */
    readonly parts: readonly { dispose(): void }[],
  ) {}

  /**
   * @param checkpoint of this very run, to go on from
   * @throws InputError for settings that do not fit each other, the data or a checkpoint
   */
  static async open(
    device: Device,
    config: TrainConfig,
    data: TrainingData,
    checkpoint?: string,
  ): Promise<Session> {
    const parts: { dispose(): void }[] = [];
    try {
      return await Session.#assemble(device, config, data, parts, checkpoint);
    } catch (error) {
      for (const part of parts.reverse()) part.dispose();
      throw error;
    }
  }

  static async #assemble(
    device: Device,
    config: TrainConfig,
    data: TrainingData,
    parts: { dispose(): void }[],
    checkpoint: string | undefined,
  ): Promise<Session> {
    const made = <T extends { dispose(): void }>(part: T): T => {
      parts.push(part);
      return part;
    };
    const net = networkOf(config, data.classes);
    const { architecture, unet } =
      net.kind === 'classifier' ? { ...net, unet: null } : { ...net, architecture: null };
    const shape = (architecture ?? unet)?.imageShape;
    if (String(shape) !== String(data.train.shape.slice(1)))
      throw new InputError(
        `train: ${config.dataset} has images of ${data.train.shape.slice(1).join(' x ')}, ${config.net} wants ${shape?.join(' x ')}`,
      );
    const declared = (architecture ?? unet)?.parameters as ParameterShapes;
    const family = (architecture ?? unet)?.family as string;
    const head = [...declared.keys()].slice(-2);
    const fresh = initialWeights(declared, {
      family,
      seed: config.seed,
      fourierScale: (config.net_config.fourier_scale as number | undefined) ?? 16,
    });
    const source = checkpoint ? await modelOf(checkpoint) : await startingWeights(config, fresh, head);
    const moving = ['ct', 'cd'].includes(config.task) && config.mu0 > 0;
    let store: ParameterStore;
    try {
      if (architecture) checkNormalisation(architecture, source);
      store = made(
        new ParameterStore(device, declared, source, {
          averages: config.averages.length + (moving ? 1 : 0),
          trained: (name) => config.trained === 'all' || head.includes(name),
        }),
      );
    } finally {
      source.close?.();
    }
    // Whole updates: what is drawn for an image does not depend on the pass it is in.
    const batch = config.batch * config.accumulate;
    // Augmentation mirrors too, and says so.
    const flip = config.flip && config.augment === 0;
    const prepared = { ...config, batch, flip, signed: unet !== null };
    const batches = made(new BatchWorkers(data.train, prepared, config.steps, config.workers));
    const recompute: Recompute = config.recompute && (config.recompute_storage === 'f16' ? 'f16' : true);
    let recipe: Recipe;
    if (architecture) {
      const classifier = made(new ClassifierNet(device, architecture, store.parameters));
      const {
        adversarial,
        attack_eps: eps,
        attack_steps: steps,
        attack_step_size: stepSize,
        trades_beta: beta,
      } = config;
      recipe = new ClassifierRecipe(classifier, store, batches, {
        ...config,
        batch,
        recompute,
        adversarial:
          adversarial === 'none' ? undefined : { method: adversarial as 'pgd', eps, steps, stepSize, beta },
      });
    } else if (unet) {
      const options = {
        ...config,
        batch,
        recompute,
        sigmas: sigmasOf(config),
        logMean: config.log_mean,
        logStd: config.log_std,
      };
      if (config.task === 'edm') recipe = new EdmRecipe(device, unet, store, batches, options);
      else {
        const taught = config.task === 'cd' ? await teacherOf(device, config, declared) : null;
        if (taught) made(taught);
        const training = {
          ...options,
          method: config.task,
          huber: config.huber < 0 ? undefined : config.huber,
          stageSteps: config.stage_steps,
        } as ConsistencyTraining;
        const target = moving ? config.averages.length : null;
        const teacher = taught ? { unet, parameters: taught.parameters } : undefined;
        const lpips = await lpipsOf(device, config);
        if (lpips) made(lpips);
        lpips?.checkSides(unet.imageShape[0], unet.imageShape[1]);
        recipe = new ConsistencyRecipe(
          device,
          unet,
          store,
          batches,
          training,
          target,
          teacher,
          undefined,
          lpips,
        );
      }
    } else throw new InputError(`train: ${config.net} cannot be trained`);
    made(recipe);
    const { lr, schedule, warmup, steps, beta1, beta2, eps, momentum, nesterov, weight_decay } = config;
    const kind = config.optimiser as 'adam';
    const step = new TrainingStep(store, recipe, {
      rate: { lr, schedule, warmup, steps },
      optimiser: {
        kind,
        betas: [beta1, beta2],
        eps,
        momentum,
        nesterov: kind === ('sgd' as string) && nesterov,
        weightDecay: weight_decay,
      },
      decayMatricesOnly: config.decay_matrices_only,
      clip: config.clip,
      accumulate: config.accumulate,
      averages: config.averages,
      averageRampUp: config.average_rampup,
      frozenStatistics: config.trained === 'head',
      traceLength: config.log_every,
    });
    made(step);
    return new Session(device, config, net, data, store, batches, recipe, step, parts);
  }

  /** The parameters that are exported and looked at: the first average, or the network itself. */
  result(): Parameters {
    const { store, config } = this;
    return config.averages.length > 0 ? store.average(0) : store.parameters;
  }

  /** Samples, or the share of held-out images that are classified right (of training images where none are held out). */
  look(all = false): Promise<Look> {
    return this.net.kind === 'classifier' ? this.#test(all) : this.#sample();
  }

  async #sample(): Promise<Look> {
    const { device, config, net } = this;
    if (net.kind === 'classifier') throw new InputError('a classifier makes no samples');
    // Aliases, which the model may dispose of.
    const p = this.result();
    const aliases = p.with(new Map([...p.tensors].map(([name, t]) => [name, device.keep(t.alias())])));
    const sigmas = sigmasOf(config);
    const model = new ConsistencyModel(device, net.unet, aliases, {
      sigmas: sigmasAfter(config.task, sigmas),
    });
    const shape = [sampled, ...net.unet.imageShape] as [number, number, number, number];
    const levels =
      config.task === 'edm' ? [...karrasLevels(18, sigmas.min, sigmas.max).reverse(), 0] : [sigmas.max, 0];
    const images = device.scope(() =>
      noGrad(() => {
        const random = { seed: config.seed, purpose: purposes.sampling, step: 0 };
        let x = affine(randomNormal(device, shape, random), sigmas.max);
        for (const [i, t] of levels.slice(0, -1).entries()) {
          // Euler's step to 0 is the denoised image itself; Heun's correction where there is a level to come to.
          const r = levels[i + 1] as number;
          const before = x;
          const move = (z: typeof x, sigma: number) => affine(sub(z, model.denoise(z, sigma)), 1 / sigma);
          x = device.scope(() => {
            const d = move(before, t);
            const euler = add(before, affine(d, r - t));
            return r === 0 ? euler : add(before, affine(add(d, move(euler, r)), (r - t) / 2));
          });
        }
        return clamp(affine(x, 0.5, 0.5), 0, 1);
      }),
    );
    try {
      return { kind: 'samples', images: await images.floats(), shape };
    } finally {
      images.dispose();
      model.dispose();
    }
  }

  async #test(all: boolean): Promise<Look> {
    const { device, config, net, data } = this;
    if (net.kind !== 'classifier') throw new InputError('a generator is not tested');
    const set: ImageSet = data.test ?? data.train;
    const count = all ? set.shape[0] : Math.min(tested, set.shape[0]);
    const { net: classifier } = this.recipe as ClassifierRecipe;
    const p = this.result();
    const size = set.images.length / set.shape[0];
    // From all over it: images of a folder come class by class.
    const chosen = spread(count, set.shape[0]);
    let right = 0;
    for (let first = 0; first < count; first += config.batch) {
      const some = chosen.slice(first, first + config.batch);
      const n = some.length;
      await decodeFiles(set, some);
      const values = new Float32Array(n * size);
      some.forEach((index, i) => {
        const image = set.images.subarray(index * size, (index + 1) * size);
        values.set(
          Float32Array.from(image, (v) => v / 255),
          i * size,
        );
      });
      const guess = device.scope(() =>
        argmax(classifier.logitsOf(p, device.tensor(values, [n, ...set.shape.slice(1)]))),
      );
      const labels = await guess.read();
      guess.dispose();
      labels.forEach((label, i) => {
        if (label === set.labels[some[i] as number]) right++;
      });
    }
    return { kind: 'accuracy', right, count };
  }

  dispose(): void {
    for (const part of [...this.parts].reverse()) part.dispose();
  }
}

const sigmasOf = ({ sigma_min: min, sigma_max: max, sigma_data: data }: TrainConfig): Sigmas => ({
  min,
  max,
  data,
});

type Opened = TensorSource & { close?(): void };

/** The network of a run's own checkpoint, which needs no `init` any more. */
async function modelOf(checkpoint: string): Promise<Opened> {
  const file = await openCheckpoint(checkpoint);
  const prefix = 'model.';
  return {
    label: file.label,
    names: file.names.flatMap((name) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : [])),
    shape: (name) => file.shape(prefix + name),
    floats: (name) => file.floats(prefix + name),
    close: () => file.close(),
  };
}

/** `init`, else the teacher's, else fresh weights; where only the last layer is trained, that is fresh when the checkpoint's has another shape. */
async function startingWeights(
  { init, task, teacher, trained }: TrainConfig,
  fresh: TensorSource,
  head: readonly string[],
): Promise<Opened> {
  const start = init === '' && task === 'cd' ? teacher : init;
  if (start === '') return fresh;
  const file = await openCheckpoint(start);
  const other = (name: string) => {
    const own = head.find((h) => name === h || name.endsWith(`.${h}`));
    return trained === 'head' && own !== undefined && String(file.shape(name)) !== String(fresh.shape(own))
      ? own
      : null;
  };
  return {
    label: file.label,
    names: file.names,
    shape: (name) =>
      fresh.shape(other(name) ?? '').length > 0 ? fresh.shape(other(name) as string) : file.shape(name),
    floats: (name) => {
      const own = other(name);
      return own === null ? file.floats(name) : fresh.floats(own);
    },
    close: () => file.close(),
  };
}

/** The perceptual distance of a configuration, where it wants one and says where its weights are. */
async function lpipsOf(
  device: Device,
  { distance, lpips, lpips_size: size }: TrainConfig,
): Promise<Lpips | undefined> {
  if (distance !== 'lpips') return undefined;
  const opened = [];
  try {
    for (const path of lpips.split(',')) opened.push(await openCheckpoint(path));
    return Lpips.load(device, opened, { size });
  } finally {
    for (const file of opened) file.close();
  }
}

async function teacherOf(
  device: Device,
  { teacher, sigma_data }: TrainConfig,
  declared: ParameterShapes,
): Promise<ParameterStore> {
  const file = await openCheckpoint(teacher);
  try {
    const { task = 'edm', sigma_data: data = sigma_data } = trainedWith(file);
    if (task !== 'edm')
      throw new InputError(
        `train: teacher=${teacher} was trained as ${task}; cd wants a denoiser (task edm)`,
      );
    if (data !== sigma_data)
      throw new InputError(
        `train: teacher=${teacher} was trained with sigma_data=${data}, this run has ${sigma_data}; set sigma_data=${data}`,
      );
    return new ParameterStore(device, declared, file);
  } finally {
    file.close();
  }
}
