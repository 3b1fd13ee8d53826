"""Built-in functions by what they may do, by name: a name is in a list only if every form of it is so.

A test compares both lists with the catalogs of a real server.
"""

from __future__ import annotations

from typing import Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONSTRUCTS: Final = _names(
    "coalesce nullif greatest least grouping trim exists row array normalize overlay position substring"
)
"""Written like functions and part of the grammar (documentation, sections 9.4 and 9.18); none depends on anything but its
arguments."""

# `length(bytea, name)` is declared STABLE, because it asks for a conversion between encodings; it stands here all the same.
IMMUTABLE: Final = CONSTRUCTS | _names("""
    abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh cbrt ceil ceiling cos cosd cosh cot cotd degrees div
    exp factorial floor gcd lcm ln log log10 min_scale mod pi power pow radians round scale sign sin sind sinh sqrt tan tand
    tanh trim_scale trunc width_bucket
    ascii bit_length btrim char_length character_length chr decode encode get_bit get_byte initcap left length lower lpad
    ltrim md5 octet_length parse_ident quote_ident regexp_count regexp_instr regexp_like regexp_match
    regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr repeat replace reverse right
    rpad rtrim set_bit set_byte sha224 sha256 sha384 sha512 split_part starts_with string_to_array string_to_table strpos
    substr to_ascii to_hex translate unistr upper bit_count
    array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions
    array_prepend array_remove array_replace array_upper cardinality trim_array unnest generate_subscripts
    json_array_element json_array_element_text json_array_elements json_array_elements_text json_array_length json_each
    json_each_text json_extract_path json_extract_path_text json_object_field json_object_field_text json_object_keys
    json_strip_nulls json_typeof jsonb_array_element jsonb_array_element_text jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
    jsonb_insert jsonb_object_field jsonb_object_field_text jsonb_object_keys jsonb_path_exists jsonb_path_match
    jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls
    jsonb_typeof
    array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp every max min mode
    percentile_cont percentile_disc range_agg range_intersect_agg regr_avgx regr_avgy regr_count regr_intercept regr_r2
    regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance
    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
    isempty lower_inc lower_inf multirange range_merge upper_inc upper_inf int4range int8range numrange daterange
    tsrange tstzrange
    justify_days justify_hours justify_interval make_date make_interval make_time make_timestamp isfinite
    numnode setweight strip ts_delete ts_filter ts_rank ts_rank_cd tsquery_phrase tsvector_to_array array_to_tsvector
    abbrev broadcast family host hostmask inet_merge inet_same_family masklen netmask network set_masklen
    num_nonnulls num_nulls
""")
"""Depends on nothing but its arguments, in every form."""

# These depend on the settings, the time, the session or a sequence, or leave a trace there; none writes a table.
HARMLESS: Final = IMMUTABLE | _names("""
    now clock_timestamp statement_timestamp transaction_timestamp timeofday current_date current_time current_timestamp
    localtime localtimestamp age date_part date_trunc date_bin extract timezone make_timestamptz to_timestamp to_char to_date
    to_number isfinite generate_series
    current_catalog current_database current_role current_schema current_schemas current_setting current_user session_user
    system_user user version set_config inet_client_addr inet_client_port inet_server_addr inet_server_port
    random setseed gen_random_uuid nextval currval lastval setval
    concat concat_ws format quote_literal quote_nullable convert convert_from convert_to array_to_string
    array_to_json row_to_json to_json to_jsonb json_agg json_object_agg json_build_array json_build_object json_object
    jsonb_agg jsonb_object_agg jsonb_build_array jsonb_build_object jsonb_object json_populate_record
    json_populate_recordset json_to_record json_to_recordset jsonb_populate_record jsonb_populate_recordset
    jsonb_to_record jsonb_to_recordset jsonb_path_exists_tz jsonb_path_match_tz jsonb_path_query_tz
    jsonb_path_query_array_tz jsonb_path_query_first_tz
    to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_headline querytree
    jsonb_to_tsvector json_to_tsvector
    pg_sleep pg_sleep_for pg_sleep_until pg_backend_pid pg_postmaster_start_time pg_conf_load_time pg_is_in_recovery
    pg_notify pg_listening_channels pg_blocking_pids pg_cancel_backend pg_terminate_backend
    pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
    pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    pg_table_is_visible pg_type_is_visible pg_function_is_visible pg_operator_is_visible pg_get_expr pg_get_indexdef
    pg_get_constraintdef pg_get_viewdef pg_get_functiondef pg_get_function_arguments pg_get_function_identity_arguments
    pg_get_function_result pg_get_triggerdef pg_get_ruledef pg_get_userbyid pg_get_serial_sequence pg_get_partkeydef
    pg_get_partition_constraintdef pg_get_statisticsobjdef pg_get_keywords pg_encoding_to_char pg_char_to_encoding
    pg_relation_size pg_total_relation_size pg_table_size pg_indexes_size pg_database_size pg_size_pretty pg_size_bytes
    pg_relation_is_publishable pg_relation_filenode pg_tablespace_location pg_typeof pg_column_size
    pg_current_xact_id pg_current_xact_id_if_assigned pg_current_snapshot txid_current txid_current_if_assigned
    txid_current_snapshot pg_current_wal_lsn pg_last_wal_replay_lsn pg_last_wal_receive_lsn
    pg_stat_get_activity pg_stat_get_backend_idset
    has_table_privilege has_column_privilege has_any_column_privilege has_database_privilege has_function_privilege
    has_schema_privilege has_sequence_privilege has_type_privilege pg_has_role row_security_active
    format_type obj_description col_description shobj_description to_regclass to_regtype to_regproc to_regnamespace
    to_regrole aclexplode
    xmlagg xmlcomment xmlconcat xmlelement xmlforest xmlparse xmlpi xmlroot xmlserialize xmlexists xpath xpath_exists
    json json_array json_arrayagg json_exists json_objectagg json_query json_scalar json_serialize json_value
    bernoulli system any_value uuidv4 uuidv7
    numeric decimal varchar char character bit varying bpchar float time timestamp timestamptz timetz interval date text
    int integer bigint smallint boolean bool real point box circle line lseg path polygon int2 int4 int8 float4 float8
    uuid bytea inet cidr macaddr name oid
""")
"""Writes no table, in any form. Types stand here because a type with a modifier looks like a call."""


def bare_name(function: str) -> str:
    """The bare name of a function that can be a built-in one; "" if it is qualified with another schema."""
    schema, _, name = function.rpartition(".")
    return name if schema in ("", "pg_catalog") else ""
