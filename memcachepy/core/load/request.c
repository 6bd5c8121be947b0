/* See request.h. */
#include "load/request.h"

static enum request_kind
next_kind(struct load_generator *g)
{
    if (g->phase == LOAD_PREFILL) {
        return REQUEST_SET;
    }
    g->set_credit += g->config.set_share;
    if (g->set_credit >= g->config.set_share + g->config.get_share) {
        g->set_credit -= g->config.set_share + g->config.get_share;
        return REQUEST_SET;
    }
    return g->config.meta ? REQUEST_META : REQUEST_GET;
}

static char *
put_set(struct load_generator *g, char *out)
{
    const struct load_config *config = &g->config;
    uint64_t key = g->phase == LOAD_PREFILL ? g->next_key++ : sampler_key(&g->sampler);
    uint64_t value_len = config->value_bytes_min;
    if (config->value_bytes_max > value_len) {
        value_len += sampler_below(&g->sampler, config->value_bytes_max - value_len + 1);
    }
    return workload_put_set(&g->workload, out, key, value_len);
}

static char *
put_get(struct load_generator *g, char *out, uint32_t *keys)
{
    out = put_bytes(out, "get", 3);
    for (uint64_t i = 0; i < g->config.keys_per_get; i++) {
        uint64_t key = sampler_key(&g->sampler);
        if (keys != NULL) {
            keys[i] = (uint32_t)key;
        }
        *out++ = ' ';
        out = workload_put_key(&g->workload, out, key);
    }
    return put_bytes(out, "\r\n", 2);
}

static char *
put_meta(struct load_generator *g, char *out, uint32_t *keys)
{
    uint64_t key = sampler_key(&g->sampler);
    if (keys != NULL) {
        keys[0] = (uint32_t)key;
    }
    out = put_bytes(out, "mg ", 3);
    out = workload_put_key(&g->workload, out, key);
    return put_bytes(out, " v\r\n", 4);
}

uint32_t *
conn_keys(const struct load_generator *g, const struct conn *c, unsigned slot)
{
    return c->keys == NULL ? NULL : c->keys + slot * g->config.keys_per_get;
}

char *
put_request(struct load_generator *g, struct conn *c, char *out, uint64_t intended_ns)
{
    unsigned slot = (c->head + c->in_flight) & g->ring_mask;
    enum request_kind kind = next_kind(g);
    switch (kind) {
    case REQUEST_SET:
        out = put_set(g, out);
        break;
    case REQUEST_GET:
        out = put_get(g, out, conn_keys(g, c, slot));
        break;
    case REQUEST_META:
        out = put_meta(g, out, conn_keys(g, c, slot));
        break;
    }
    c->pending[slot] = (struct pending){.intended_ns = intended_ns, .kind = kind};
    c->in_flight++;
    g->in_flight++;
    g->issued++;
    if (--g->issue_left == 0) {
        g->issuing = false;
    }
    return out;
}
