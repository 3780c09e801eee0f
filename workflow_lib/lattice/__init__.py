"""The crystal as sites: hosts, arrangements, the redox rule, neutrality, hull and voltage."""
