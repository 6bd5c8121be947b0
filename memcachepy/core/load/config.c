/* Defaults and ranges of a load run. */
#include "load/config.h"

#include <stdio.h>
#include <string.h>

static const struct load_setting {
    const char *name;
    size_t offset;
    uint64_t smallest, largest, preset;
} settings[] = {
#define X(name, smallest, largest, preset)                                                         \
    {#name, offsetof(struct load_config, name), smallest, largest, preset},
    LOAD_SETTINGS(X)
#undef X
};

#define SETTING_COUNT (sizeof(settings) / sizeof(settings[0]))

static uint64_t *
field(struct load_config *config, const struct load_setting *setting)
{
    return (uint64_t *)((char *)config + setting->offset);
}

void
load_config_init(struct load_config *config)
{
    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        *field(config, &settings[i]) = settings[i].preset;
    }
    strcpy(config->address, "127.0.0.1");
    strcpy(config->key_prefix, "key:");
}

static unsigned
digits_of(uint64_t number)
{
    unsigned digits = 1;
    while (number >= 10) {
        number /= 10;
        digits++;
    }
    return digits;
}

/* Keys must be what memcached accepts: no space, no control character. */
static bool
check_prefix(const struct load_config *config, char *sentence, size_t size)
{
    for (const char *c = config->key_prefix; *c != '\0'; c++) {
        if ((unsigned char)*c <= ' ' || *c == 0x7f) {
            snprintf(sentence, size,
                     "key_prefix holds byte %u; it may not hold spaces or control "
                     "characters",
                     (unsigned char)*c);
            return false;
        }
    }
    size_t need = strlen(config->key_prefix) + digits_of(config->key_count - 1);
    if (config->key_bytes < need) {
        snprintf(sentence, size,
                 "key_bytes is %llu; prefix \"%s\" and the numbers of %llu keys need %zu to %d",
                 (unsigned long long)config->key_bytes, config->key_prefix,
                 (unsigned long long)config->key_count, need, LOAD_KEY_LEN_MAX);
        return false;
    }
    return true;
}

static const char *
contradiction(const struct load_config *config)
{
    if (config->value_bytes_min > config->value_bytes_max) {
        return "value_bytes_min is larger than value_bytes_max";
    }
    if (config->set_share + config->get_share == 0) {
        return "set_share and get_share are both 0; at least one must be 1 or more";
    }
    if (config->duration_ms == 0 && config->request_count == 0) {
        return "duration_ms and request_count are both 0; at least one must be 1 or more";
    }
    if (config->meta && config->keys_per_get > 1) {
        return "keys_per_get must be 1 with meta: mg takes one key, pipeline it instead";
    }
    if (config->reconnect && config->pipeline_depth > 1) {
        return "pipeline_depth must be 1 with reconnect: a connection carries one request";
    }
    if (config->address[0] == '\0') {
        return "address is empty";
    }
    return NULL;
}

bool
load_config_check(const struct load_config *config, char *sentence, size_t size)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        uint64_t value = *field((struct load_config *)config, &settings[i]);
        if (value < settings[i].smallest || value > settings[i].largest) {
            snprintf(sentence, size, "%s is %llu; it must be %llu to %llu", settings[i].name,
                     (unsigned long long)value, (unsigned long long)settings[i].smallest,
                     (unsigned long long)settings[i].largest);
            return false;
        }
    }
    if (!(config->zipf_exponent >= 0 && config->zipf_exponent <= 10)) {
        snprintf(sentence, size, "zipf_exponent is %g; it must be 0 (uniform) to 10",
                 config->zipf_exponent);
        return false;
    }
    const char *clash = contradiction(config);
    if (clash != NULL) {
        snprintf(sentence, size, "%s", clash);
        return false;
    }
    return check_prefix(config, sentence, size);
}
