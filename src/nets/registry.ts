/**
 * Networks by name. `ncsnpp`, `adm`, `wrn`, … are families that take a configuration; the names of published
 * networks are configurations of them, and a configuration given beside such a name overrides single settings.
 */
import { InputError } from '../engine/errors.ts';
import { type AdmConfig, adm, admImageNet64, improvedDiffusionImageNet64 } from './adm.ts';
import { type Architecture, normalisationIn } from './classifier.ts';
import { type Sigmas, sigmasIn } from './consistency.ts';
import { ddpmppCifar10, type NcsnppConfig, ncsnpp, ncsnppCifar10 } from './ncsnpp.ts';
import type { TensorSource } from './parameters.ts';
import { cifarResNet, resNet, resnet50 } from './resnet.ts';
import { cnnA, convSmall, resnet2b, resnet4b } from './small-nets.ts';
import type { UNet } from './unet.ts';
import { dmWideResNet, dmWrn70x16, wideResNet, wrn28x10 } from './wide-resnet.ts';

export type Network =
  | {
      readonly kind: 'consistency' | 'score';
      readonly name: string;
      readonly unet: UNet;
      /** Of a consistency model. */
      readonly sigmas: Sigmas;
    }
  | { readonly kind: 'classifier'; readonly name: string; readonly architecture: Architecture };

type Config = Readonly<Record<string, unknown>>;

interface Entry {
  readonly kind: Network['kind'];
  readonly base: Config;
  readonly make: (config: never) => UNet | Architecture;
  /** The module whose bias counts the classes. */
  readonly head?: string;
  /** Settings that others of the published code stand for. @throws InputError where they contradict each other */
  readonly said?: (given: Config) => Config;
}

const config = (value: object) => value as Config;
const none = config({});
const cifar = (depth: number): Entry => ({
  kind: 'classifier',
  base: { depth },
  make: cifarResNet,
  head: 'linear',
});
const torchvision = (layers: number[], width_per_group = 64): Entry => ({
  kind: 'classifier',
  base: config({ ...resnet50, layers, width_per_group }),
  make: resNet,
  head: 'fc',
});
const small = (make: () => Architecture): Entry => ({
  kind: 'classifier',
  base: none,
  make: (given: Config) => {
    const made = make();
    for (const [key, value] of Object.entries(given))
      if (key !== 'num_classes' || value !== made.classes)
        throw new InputError(
          `${made.family} has no settings, and ${made.classes} classes; got ${key} ${JSON.stringify(value)}`,
        );
    return made;
  },
});

/** guided-diffusion's flag: true is [q, k, v] x heads, as consistency_models' flash attention has them, false heads x [q, k, v]. */
function attentionOrder({ use_new_attention_order: flag, attention_type: type }: Config): Config {
  if (flag === undefined) return {};
  if (typeof flag !== 'boolean')
    throw new InputError(
      `improved-diffusion config: use_new_attention_order must be true or false, got ${JSON.stringify(flag)}`,
    );
  const meant = flag ? 'flash' : 'legacy';
  if (type !== undefined && type !== meant)
    throw new InputError(
      `improved-diffusion config: use_new_attention_order ${flag} is attention_type ${meant}, not ${JSON.stringify(type)}; give one of them`,
    );
  return { attention_type: meant };
}

const published: Readonly<Record<string, Entry>> = {
  'ncsnpp-cifar10': { kind: 'consistency', base: config(ncsnppCifar10), make: ncsnpp },
  'adm-imagenet64': { kind: 'consistency', base: config(admImageNet64), make: adm },
  'adm-imagenet64-cond': {
    kind: 'consistency',
    base: config({ ...admImageNet64, class_cond: true } satisfies AdmConfig),
    make: adm,
  },
  'ddpmpp-cifar10': { kind: 'score', base: config(ddpmppCifar10 satisfies NcsnppConfig), make: ncsnpp },
  'improved-diffusion-imagenet64': {
    kind: 'score',
    base: config(improvedDiffusionImageNet64),
    make: adm,
    said: attentionOrder,
  },
  resnet50: torchvision([3, 4, 6, 3]),
  resnet101: torchvision([3, 4, 23, 3]),
  'wrn-50-2': torchvision([3, 4, 6, 3], 128),
  resnet20: cifar(20),
  resnet32: cifar(32),
  resnet44: cifar(44),
  resnet56: cifar(56),
  resnet2b: small(resnet2b),
  resnet4b: small(resnet4b),
  cnn_a: small(cnnA),
  conv_small: small(convSmall),
};

/** These need a configuration; what it leaves out is as in the published member. */
const families: Readonly<Record<string, Entry>> = {
  ncsnpp: published['ncsnpp-cifar10'] as Entry,
  adm: published['adm-imagenet64'] as Entry,
  ddpmpp: published['ddpmpp-cifar10'] as Entry,
  'improved-diffusion': published['improved-diffusion-imagenet64'] as Entry,
  wrn: { kind: 'classifier', base: config(wrn28x10), make: wideResNet, head: 'fc' },
  'dm-wrn': { kind: 'classifier', base: config(dmWrn70x16), make: dmWideResNet, head: 'logits' },
  resnet: published.resnet50 as Entry,
  'cifar-resnet': published.resnet20 as Entry,
};

/** For help texts and messages. */
export const networkNames: readonly string[] = [
  ...Object.keys(published),
  'wrn-DEPTH-WIDTH',
  'dm-wrn-DEPTH-WIDTH',
  ...Object.keys(families).map((family) => `${family} with a configuration`),
];

/**
 * A network by name.
 * @param given settings that differ from the named network's
 * @param source the checkpoint, from which a classifier's number of classes is taken where `given` does not say it
 * @throws InputError when there is no such network or it cannot be built
 */
export function network(name: string, given?: Config, source?: TensorSource): Network {
  const { kind, base, make, head, said } = find(name, given);
  const counted: Record<string, unknown> = {};
  if (head && source && given?.num_classes === undefined) {
    const bias = source.names.find((n) => n === `${head}.bias` || n.endsWith(`.${head}.bias`));
    const shape = bias === undefined ? [] : source.shape(bias);
    if (shape.length === 1) counted.num_classes = shape[0];
  }
  if (
    source &&
    kind === 'classifier' &&
    'mean' in base &&
    given?.mean === undefined &&
    given?.std === undefined
  )
    Object.assign(counted, normalisationIn(source));
  const made = make({ ...base, ...counted, ...given, ...(given ? said?.(given) : {}) } as never);
  return kind === 'classifier'
    ? { kind, name, architecture: made as Architecture }
    : { kind, name, unet: made as UNet, sigmas: sigmasIn((made as UNet).family, { ...base, ...given }) };
}

function find(name: string, given: Config | undefined): Entry {
  if (Object.hasOwn(published, name)) return published[name] as Entry;
  const sized = /^(wrn|dm-wrn)-(\d+)-(\d+)$/.exec(name);
  if (sized) {
    const family = families[sized[1] as string] as Entry;
    return { ...family, base: { ...family.base, depth: Number(sized[2]), widen_factor: Number(sized[3]) } };
  }
  if (!Object.hasOwn(families, name))
    throw new InputError(`there is no network "${name}"; there are ${networkNames.join(', ')}`);
  if (!given)
    throw new InputError(
      `network "${name}" is a family; give its configuration as JSON, such as --net-config FILE.json`,
    );
  return families[name] as Entry;
}
