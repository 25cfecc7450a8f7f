/** Numbers of `sy_op_kind`, by the names that `programTimes` uses. */
export const opKind = {
  embed: 1,
  norm: 2,
  linear: 3,
  head_linear: 4,
  rope: 5,
  clamp: 6,
  kv_write: 7,
  attention: 8,
  gated_act: 9,
  mul_sigmoid: 10,
  add: 11,
  route: 12,
  experts: 13,
  combine: 14,
  gather: 15,
} as const;

export type OpKind = keyof typeof opKind;
