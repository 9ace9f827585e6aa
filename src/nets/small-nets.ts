/**
 * The small adversarially trained CIFAR-10 networks that verifiers are compared on (Wong & Kolter 2018, Dathathri et
 * al. 2020): residual networks without batch normalisation, and two convolutions before two dense layers. They
 * normalise inside; parameter names are those of their PyTorch state_dicts.
 */
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { relu } from '../kernels/elementwise.ts';
import { linear } from '../kernels/matmul.ts';
import { reshape, transpose } from '../kernels/shape.ts';
import { type Architecture, cifar10Normalisation } from './classifier.ts';
import { type Parameters, StateDict } from './parameters.ts';

const image: Architecture['imageShape'] = [32, 32, 3];
const classes = 10;

/** PyTorch flattens channels first. */
function flatten(x: Tensor): Tensor {
  const [n, h, w, c] = x.shape as [number, number, number, number];
  return reshape(transpose(x, [0, 3, 1, 2]), [n, h * w * c]);
}

const dense = (name: string, p: Parameters, x: Tensor) =>
  linear(x, p.get(`${name}.weight`), p.get(`${name}.bias`));

interface Block {
  readonly name: string;
  readonly in: number;
  readonly out: number;
  readonly stride: number;
}

function smallResNet(family: string, first: number, blocks: readonly Block[], flat: number): Architecture {
  const file = new StateDict();
  file.conv('conv1', 3, 3, first);
  for (const { name, in: from, out, stride } of blocks) {
    file.conv(`${name}.conv1`, 3, from, out);
    file.conv(`${name}.conv2`, 3, out, out);
    if (stride !== 1 || from !== out) file.conv(`${name}.shortcut.0`, 1, from, out);
  }
  file.linear('linear1', flat, 100);
  file.linear('linear2', 100, classes);
  return {
    family,
    classes,
    imageShape: image,
    normalisation: cifar10Normalisation,
    parameters: file.parameters,
    forward(p, x) {
      const conv = (name: string, y: Tensor, stride: number, padding: number) =>
        conv2d(y, p.get(`${name}.weight`), { bias: p.get(`${name}.bias`), stride, padding });
      let h = relu(conv('conv1', x, 2, 1));
      for (const { name, in: from, out, stride } of blocks) {
        const y = conv(`${name}.conv2`, relu(conv(`${name}.conv1`, h, stride, 1)), 1, 1);
        const shortcut = stride !== 1 || from !== out ? conv(`${name}.shortcut.0`, h, stride, 0) : h;
        h = relu(add(y, shortcut));
      }
      return dense('linear2', p, relu(dense('linear1', p, flatten(h))));
    },
  };
}

export const resnet2b = (): Architecture =>
  smallResNet(
    'resnet2b',
    8,
    [
      { name: 'layer1.0', in: 8, out: 16, stride: 2 },
      { name: 'layer1.1', in: 16, out: 16, stride: 1 },
    ],
    1024,
  );

export const resnet4b = (): Architecture =>
  smallResNet(
    'resnet4b',
    16,
    [
      { name: 'layer1.0', in: 16, out: 32, stride: 2 },
      { name: 'layer1.1', in: 32, out: 32, stride: 1 },
      { name: 'layer2.0', in: 32, out: 32, stride: 2 },
      { name: 'layer2.1', in: 32, out: 32, stride: 1 },
    ],
    512,
  );

function convNet(family: string, padding: number, flat: number): Architecture {
  const file = new StateDict();
  file.conv('0', 4, 3, 16);
  file.conv('2', 4, 16, 32);
  file.linear('5', flat, 100);
  file.linear('7', 100, classes);
  return {
    family,
    classes,
    imageShape: image,
    normalisation: { ...cifar10Normalisation, std: [0.2023, 0.1994, 0.201] },
    parameters: file.parameters,
    forward(p, x) {
      const conv = (name: string, y: Tensor) =>
        relu(conv2d(y, p.get(`${name}.weight`), { bias: p.get(`${name}.bias`), stride: 2, padding }));
      return dense('7', p, relu(dense('5', p, flatten(conv('2', conv('0', x))))));
    },
  };
}

export const cnnA = (): Architecture => convNet('cnn_a', 1, 2048);
export const convSmall = (): Architecture => convNet('conv_small', 0, 1152);
